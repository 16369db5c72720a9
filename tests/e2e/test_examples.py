"""The examples, run as they are: every sample once per epoch, and a run that was killed ends as one that was not."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.nn.functional import mse_loss

import headwater as hw
from conftest import absent

from .conftest import SMALL as SAMPLES

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PAIRS = {"latents": "latent_*", "conditions": "condition_*"}
BATCH, EPOCHS, SAVE_EVERY = 4, 2, 3
Steps = list[list[int]]
# What is said when a thread is ended in the midst of C++: here one of gloo's, which torch leaves running and which asks for the
# interpreter after its end. It counts as an end only where all ranks of torchrun have said their last words, and what they did
# is checked all the same. No thread of ours is there then; `test_loader_life.py` has those.
ENDED_BY_TORCH = "terminate called without an active exception"


def needs(*modules: str) -> None:
    if missing := [module for module in modules if importlib.util.find_spec(module) is None]:
        absent(f"not installed: {', '.join(missing)}; `make test-trainers` installs what the examples train with")


@dataclass
class Reference:
    """The same training in this process, undisturbed, on batches of all ranks together."""

    steps: Steps
    model: torch.nn.Module

    def assert_same_weights(self, found: dict[str, torch.Tensor]) -> None:
        assert found.keys() == self.model.state_dict().keys()
        for name, expected in self.model.state_dict().items():
            torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-6)


def trained(folder: Path, ranks: int = 1) -> Reference:
    dataset = hw.StreamingDataset(folder, pairs=PAIRS)
    loader = hw.StreamingDataLoader(dataset, BATCH * ranks, shuffle=True, seed=0, drop_last=True)
    torch.manual_seed(0)
    model = torch.nn.Linear(32, 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steps = []
    for batch in (batch for _ in range(EPOCHS) for batch in loader):
        rows = batch["latents"]["latents"]
        optimizer.zero_grad()
        mse_loss(model(rows[..., :-1, :]), rows[..., 1:, :]).backward()
        optimizer.step()
        steps.append(batch["__index__"].tolist())
    return Reference(steps, model)


@dataclass
class Watch:
    """Runs examples, and knows what their loaders handed out."""

    folder: Path
    kill: dict[str, int] | None = None

    def run(self, *command: Any, timeout: float = 120, dies: bool = False, **environment: str) -> str:
        """What the command prints."""
        # Two ranks on few cores; and one alone computes as this process does.
        told = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests" / "watch"), "WATCH_FOLDER": str(self.folder)}
        if self.kill:
            told["WATCH_KILL"] = json.dumps({"rank": 0, "seconds": 0, **self.kill})
        parts = [str(part) for part in (sys.executable, *command)]
        told = {**os.environ, **told, **environment}
        done = subprocess.run(parts, check=False, env=told, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
        all_said = all(f"rank {rank} of 2 waited" in done.stdout for rank in range(2))
        failed = done.returncode != 0 and not (all_said and ENDED_BY_TORCH in done.stderr)
        assert failed == dies, done.stdout + done.stderr
        assert (self.folder / "killed").exists() == (self.kill is not None)
        return done.stdout

    def lives(self, ranks: int = 2) -> dict[int, list[Steps]]:
        """By rank, what each of its processes was handed, in the order of their beginnings."""
        found: dict[int, list[Steps]] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found.setdefault(lines[0]["rank"], []).append([line["indices"] for line in lines])
        assert found.keys() == set(range(ranks))
        return found


@pytest.fixture
def watch(tmp_path: Path) -> Callable[..., Watch]:
    def make(**kill: int) -> Watch:
        folder = tmp_path / "watch"
        folder.mkdir()
        return Watch(folder, kill or None)

    return make


def shares(steps: Steps, rank: int) -> Steps:
    """A rank's part of the batches of all ranks together."""
    return [step[rank * BATCH : (rank + 1) * BATCH] for step in steps]


def assert_once_per_epoch(steps: Steps) -> None:
    per_epoch = len(steps) // EPOCHS
    for epoch in range(EPOCHS):
        seen = [index for step in steps[epoch * per_epoch : (epoch + 1) * per_epoch] for index in step]
        assert sorted(seen) == list(range(SAMPLES))


def arguments(folder: Path, checkpoint: Path, save_every: int = SAVE_EVERY) -> list[Any]:
    return [folder, "--checkpoint", checkpoint, "--epochs", EPOCHS, "--save-every", save_every]


def test_a_plain_loop_goes_on_where_it_was_killed(small_set: Path, tmp_path: Path, watch: Callable[..., Watch]) -> None:
    reference, watched = trained(small_set), watch(batch=14)
    command = ["examples/plain.py", *arguments(small_set, tmp_path / "run.pt")]
    watched.run(*command, dies=True)
    assert "loss" in watched.run(*command)
    assert_once_per_epoch(reference.steps)
    # It was killed in the second epoch, on its way from step 12 to the next save.
    assert watched.lives(ranks=1) == {0: [reference.steps[:14], reference.steps[12:]]}
    reference.assert_same_weights(torch.load(tmp_path / "run.pt", weights_only=True)["model"])


def test_ranks_of_torchrun_go_on_together_after_one_was_killed(
    small_set: Path, tmp_path: Path, watch: Callable[..., Watch]
) -> None:
    reference, watched = trained(small_set, ranks=2), watch(rank=1, batch=8)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    command = [*launch, "examples/torchrun.py", *arguments(small_set, tmp_path / "run.pt")]
    # Not by --max-restarts: with gloo, ranks that torchrun starts anew find addresses of those before them, now and then.
    watched.run(*command, dies=True)
    watched.run(*command)
    assert_once_per_epoch(reference.steps)
    for rank, (first, second) in watched.lives().items():
        assert first[:7] == shares(reference.steps[:7], rank)
        assert second == shares(reference.steps[6:], rank), "from the save at step 6, in the second epoch"
    reference.assert_same_weights(torch.load(tmp_path / "run.pt", weights_only=True)["model"])


def test_processes_of_lightning_go_on_together_after_one_was_killed(
    small_set: Path, tmp_path: Path, watch: Callable[..., Watch]
) -> None:
    needs("lightning")
    # Saved at the end of each epoch; `test_trainers.py` has the other places.
    reference, watched = trained(small_set, ranks=2), watch(rank=1, batch=8)
    command = ["examples/lightning_trainer.py", *arguments(small_set, tmp_path / "run", save_every=5), "--devices", 2]
    watched.run(*command, dies=True)
    watched.run(*command)
    assert_once_per_epoch(reference.steps)
    for rank, (first, second) in watched.lives().items():
        assert first[:7] == shares(reference.steps[:7], rank)
        assert second == shares(reference.steps[5:], rank)
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    reference.assert_same_weights({name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()})
    [state] = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert (state["epoch"], state["position"]) == (EPOCHS - 1, SAMPLES)


def test_processes_of_accelerate_go_on_together_after_one_was_killed(
    small_set: Path, tmp_path: Path, watch: Callable[..., Watch]
) -> None:
    needs("accelerate")
    reference, watched = trained(small_set, ranks=2), watch(rank=1, batch=8)
    launch = ["-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", 2]
    options = ["--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", 0]
    command = [*launch, *options, "examples/accelerate_loop.py", *arguments(small_set, tmp_path / "run")]
    watched.run(*command, dies=True)
    watched.run(*command)
    assert_once_per_epoch(reference.steps)
    for rank, (first, second) in watched.lives().items():
        assert first[:7] == shares(reference.steps[:7], rank)
        assert second == shares(reference.steps[6:], rank)
    last = tmp_path / "run" / "step-00000010"
    reference.assert_same_weights(safetensors.torch.load_file(last / "model.safetensors"))
    state = torch.load(last / "custom_checkpoint_0.pkl", weights_only=True)
    assert (state["epoch"], state["position"]) == (EPOCHS - 1, SAMPLES)


def test_workers_of_ray_go_on_together_when_one_is_killed(small_set: Path, tmp_path: Path, watch: Callable[..., Watch]) -> None:
    needs("ray")
    # It hangs for long enough that Ray has seen the report before.
    reference, watched = trained(small_set, ranks=2), watch(rank=1, batch=8, seconds=5)
    command = ["examples/ray_train.py", *arguments(small_set, tmp_path / "run")]
    watched.run(*command, timeout=240)
    assert_once_per_epoch(reference.steps)
    for rank, (first, second) in watched.lives().items():
        assert first[:7] == shares(reference.steps[:7], rank)
        assert second == shares(reference.steps[6:], rank), "what Ray started anew went on from its last report"
    *_, last = sorted((tmp_path / "run").glob("checkpoint_*/state.pt"))
    saved = torch.load(last, weights_only=True)
    reference.assert_same_weights(saved["model"])
    assert (saved["loader"]["epoch"], saved["loader"]["position"]) == (EPOCHS - 1, SAMPLES)


def test_jax_trains_without_torch_and_goes_on_where_it_was_killed(
    small_set: Path, tmp_path: Path, watch: Callable[..., Watch]
) -> None:
    needs("jax")
    reference, watched = trained(small_set), watch(batch=14)
    for name, lives in [("killed", 2), ("undisturbed", 1)]:
        command = ["examples/jax_numpy.py", *arguments(small_set, tmp_path / f"{name}.npz")]
        for life in range(lives):
            watched.run(*command, dies=lives - life == 2, WATCH_HIDDEN="torch")
    with pytest.raises(AssertionError, match="No module named 'torch'"):
        watched.run("-c", "import torch", WATCH_HIDDEN="torch")
    assert watched.lives(ranks=1) == {0: [reference.steps[:14], reference.steps[12:], reference.steps]}
    killed, undisturbed = (np.load(tmp_path / f"{name}.npz") for name in ("killed", "undisturbed"))
    assert killed.files == undisturbed.files
    for name in killed.files:
        np.testing.assert_array_equal(killed[name], undisturbed[name])


def test_a_loop_beside_other_tasks_trains_the_same(small_set: Path, tmp_path: Path, watch: Callable[..., Watch]) -> None:
    reference, watched = trained(small_set), watch()
    watched.run("examples/async_loop.py", *arguments(small_set, tmp_path / "run.pt"))
    assert watched.lives(ranks=1) == {0: [reference.steps]}
    reference.assert_same_weights(torch.load(tmp_path / "run.pt", weights_only=True)["model"])


def test_a_notebook_trains_and_its_cell_can_be_run_again(
    small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("ipykernel", "nbclient")
    import nbclient
    import nbformat

    monkeypatch.setenv("SOURCE", str(small_set))
    source = (ROOT / "examples" / "notebook.py").read_text()
    cells = [cell for cell in source.split("# %%")[1:] if not cell.startswith(" [markdown]")]
    [training] = [cell for cell in cells if "backward" in cell]
    cells.insert(cells.index(training), training)
    # Here as everywhere: a cell runs in the event loop of its kernel.
    cells.append("import asyncio; asyncio.get_running_loop(); [dataset[3]['__index__'], loader.state_dict()['epoch']]")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("#" + cell) for cell in cells[:-1]])
    notebook.cells.append(nbformat.v4.new_code_cell(cells[-1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = [output.get("text", output.get("data", {}).get("text/plain")) for cell in notebook.cells for output in cell.outputs]
    assert said[0] == f"<StreamingDataset of {SAMPLES} samples, fields conditions, latents>"
    assert [text.partition(",")[0] for text in said if "steps" in text] == ["10 steps", "10 steps"]
    assert said[-1] == "[3, 2]"


def test_the_stop_button_ends_a_wait_of_a_cell(small_set: Path) -> None:
    needs("ipykernel", "jupyter_client")
    from jupyter_client.manager import start_new_async_kernel

    opened = f"""
import headwater as hw
never = hw.FetchConfig(throttle=hw.Throttle(first_byte="1h"))
dataset = hw.StreamingDataset({str(small_set / "latents")!r}, fetch=never, framework="numpy")
"""

    async def work() -> list[str]:
        manager, client = await start_new_async_kernel()

        async def stop() -> None:
            await asyncio.sleep(1)
            await manager.interrupt_kernel()

        async def run(cell: str) -> str:
            reply = await client.execute_interactive(cell, timeout=30)
            return reply["content"].get("ename", "")

        try:
            done = await run(opened)
            stopped, _ = await asyncio.gather(run("for batch in hw.StreamingDataLoader(dataset, 4): pass"), stop())
            return [done, stopped, await run("1 + 1")]
        finally:
            client.stop_channels()
            await manager.shutdown_kernel(now=True)

    assert asyncio.run(work()) == ["", "KeyboardInterrupt", ""]
