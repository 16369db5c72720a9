"""A trainer that knows the adapter alone: its main source dies half-way, it is killed; its losses are those of a quiet run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import absent
from servers import rgw
from servers.keeper import Keepers, serving

from .conftest import SMALL as SAMPLES
from .conftest import Remote, new_remote, options

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
BATCH, EPOCHS = 4, 2
STEPS = SAMPLES // BATCH * EPOCHS


@pytest.fixture
def primary(small_set: Path) -> Iterator[tuple[Keepers, Remote]]:
    """A Ceph of this test's own, with the samples in it."""
    if importlib.util.find_spec("accelerate") is None:
        absent("accelerate is not installed: `make test-trainers` does that")
    if missing := rgw.missing():
        absent(f"no S3 server: {', '.join(missing)}; `make test-servers` installs it")
    with serving("s3") as keepers:
        place = new_remote(keepers.described["s3"])  # type: ignore[arg-type]
        for path in small_set.rglob("*.pt"):
            place.put(path.relative_to(small_set).as_posix(), path.read_bytes())
        yield keepers, place


def config(folder: Path, place: Remote, copy: Path, cache_size_gb: float) -> Path:
    sources: list[dict[str, Any]] = []
    for name in ("latents", "conditions"):
        credentials = options(place.server)
        sources.append({"name": name, "type": "s3", "path": place.uri(name), "credentials": credentials})
        sources.append({"name": name, "type": "local", "path": str(copy / name)})
    path = folder / "run.json"
    path.write_text(json.dumps({"sources": sources, "cache_size_gb": cache_size_gb}))
    return path


def trained(
    run: Path, checkpoint: Path, at: Callable[[int, int], None] = lambda _step, _process: None
) -> tuple[list[str], dict[str, Any]]:
    """Losses by step as printed, and the closing figures; `at` is told of every step and the process."""
    command = [sys.executable, "examples/adapter_trainer.py", str(run), "--checkpoint", str(checkpoint)]
    command += ["--epochs", str(EPOCHS), "--save-every", "3"]
    told = {**os.environ, "OMP_NUM_THREADS": "1"}
    losses, last = [], "{}"
    with subprocess.Popen(command, cwd=ROOT, env=told, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"step (\d+) of \d+, loss (\S+)", line):
                losses.append(f"{found[1]} {found[2]}")
                at(int(found[1]), process.pid)
            elif line.startswith("{"):
                last = line
    assert process.returncode in (0, -signal.SIGKILL)
    return losses, json.loads(last)


@pytest.mark.parametrize("cache_size_gb", [0, 0.5])
def test_losses_are_those_of_an_undisturbed_run_though_the_primary_dies_half_way(
    small_set: Path, tmp_path: Path, primary: tuple[Keepers, Remote], cache_size_gb: float
) -> None:
    keepers, place = primary
    run = config(tmp_path, place, small_set, cache_size_gb)
    # A primary that is slow for a moment is helped out, too: on a busy machine that is no error.
    quiet, _ = trained(run, tmp_path / "quiet")
    assert len(quiet) == STEPS

    # Half-way; with a cache half-way through the epoch that still reads.
    end = STEPS // 4 if cache_size_gb else STEPS // 2
    disturbed, figures = trained(run, tmp_path / "disturbed", lambda step, _: keepers.stop() if step == end else None)
    assert disturbed == quiet
    assert figures["failovers"] > 0


def test_a_run_that_was_killed_goes_on_with_the_same_losses_and_without_the_primary(
    small_set: Path, tmp_path: Path, primary: tuple[Keepers, Remote]
) -> None:
    keepers, place = primary
    run = config(tmp_path, place, small_set, 0.5)
    quiet, _ = trained(run, tmp_path / "quiet")
    first, _ = trained(run, tmp_path / "killed", lambda step, pid: os.kill(pid, signal.SIGKILL) if step == 14 else None)
    keepers.stop()
    second, _ = trained(run, tmp_path / "killed")
    assert first[:14] == quiet[:14]
    assert second == quiet[12:], "from the save at step 12, in the second epoch"
