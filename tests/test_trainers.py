"""What trainers do to a loader that is not torch's: hand it back, or refuse it; nothing shards it a second time."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import headwater as hw
from clips import SAMPLES, indices, loader, write_clips
from conftest import absent

pytestmark = [
    pytest.mark.slow,  # to import
    pytest.mark.filterwarnings("ignore"),  # theirs
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("set"))


def trainer(name: str) -> Any:
    package = name.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        absent(f"{package} is not installed: `make test-trainers` does that")
    return importlib.import_module(name)


def test_accelerate_hands_the_loader_back_and_shards_a_torch_loader_of_the_dataset(folder: Path) -> None:
    accelerate = trainer("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    made, model = loader(folder), torch.nn.Linear(1, 1)
    prepared, _ = accelerator.prepare(made, model)
    assert prepared is made
    assert accelerator.prepare(made) is made
    assert indices(made) == indices(loader(folder))
    # What is torch's is taken over as any other: with two processes each gets half.
    dataset = hw.StreamingDataset(folder)
    shard = accelerate.data_loader.prepare_data_loader
    parts = [shard(DataLoader(dataset, 5), num_processes=2, process_index=rank, put_on_device=False) for rank in range(2)]
    seen = [index for part in parts for batch in part for index in batch["__index__"].tolist()]
    assert sorted(seen) == list(range(SAMPLES))


def test_accelerate_refuses_to_shard_or_skip_in_the_loader(folder: Path) -> None:
    accelerate = trainer("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    with pytest.raises(AttributeError, match="'StreamingDataLoader' object has no attribute 'sampler'"):
        accelerator.prepare_data_loader(loader(folder))
    with pytest.raises(AttributeError, match="'StreamingDataLoader' object has no attribute 'sampler'"):
        accelerate.skip_first_batches(loader(folder), 2)


def test_ray_refuses_to_shard_the_loader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utilities = trainer("ray.train.torch.train_loop_utils")
    monkeypatch.setattr(utilities.session, "get_world_size", lambda: 2)
    monkeypatch.setattr(utilities.session, "get_world_rank", lambda: 1)
    with pytest.raises(AttributeError, match="'StreamingDataLoader' object has no attribute 'sampler'"):
        utilities._TorchAccelerator().prepare_data_loader(loader(folder))


def test_fabric_refuses_the_loader_and_keeps_its_state(folder: Path, tmp_path: Path) -> None:
    fabric = trainer("lightning").Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    made = loader(folder)
    with pytest.raises(TypeError, match="Only PyTorch DataLoader"):
        fabric.setup_dataloaders(made)
    batches = iter(made)
    for _ in range(3):
        next(batches)
    fabric.save(tmp_path / "run.ckpt", {"loader": made})
    resumed = loader(folder)
    fabric.load(tmp_path / "run.ckpt", {"loader": resumed})
    assert indices(resumed) == indices(loader(folder))[3:]


QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
ONE = {"accelerator": "cpu", "devices": 1, "max_epochs": 2, **QUIET}


@pytest.fixture
def noting() -> Any:
    """A module that notes what it is given, and stops in front of a step that it is told."""
    lightning = trainer("lightning")

    class Noting(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, steps: int | None = None) -> None:
            super().__init__()
            self.model, self.steps = torch.nn.Linear(1, 1), steps
            self.seen: dict[str, list[list[int]]] = {"train": [], "validate": []}

        def training_step(self, batch: dict[str, Any]) -> torch.Tensor:
            if len(self.seen["train"]) == self.steps:
                raise ZeroDivisionError
            self.seen["train"].append(batch["__index__"].tolist())
            return self.model(torch.ones(1)).sum()

        def validation_step(self, batch: dict[str, Any]) -> None:
            self.seen["validate"].append(batch["__index__"].tolist())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Noting


def test_lightning_walks_loaders_whole_also_to_validate_and_with_limits(folder: Path, noting: Any) -> None:
    lightning = trainer("lightning")
    chosen = {**ONE, "enable_checkpointing": False}
    first, second = (indices(made) for made in [loader(folder)] for _ in range(2))
    in_order = indices(loader(folder, shuffle=False))

    module = noting()
    lightning.Trainer(**chosen, num_sanity_val_steps=1).fit(module, loader(folder), loader(folder, shuffle=False))
    assert module.seen["train"] == first + second
    assert module.seen["validate"] == in_order[:1] + in_order * 2

    module = noting()
    lightning.Trainer(**chosen, limit_train_batches=3).fit(module, loader(folder))
    assert module.seen["train"] == first[:3] + second[:3]

    module = noting()
    lightning.Trainer(**chosen, overfit_batches=2).fit(module, loader(folder, shuffle=False))
    assert module.seen["train"] == in_order[:2] * 2


# Of 13 batches an epoch, or 4: every case ends in the second epoch. The saves are in its middle, at the last batch of the first
# one, and behind it.
@pytest.mark.parametrize(
    ("saving", "limit", "stop", "saved"),
    [
        ({"every_n_train_steps": 8}, None, 20, 16),
        ({"every_n_train_steps": 13}, None, 20, 13),
        ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, None, 20, 13),
        ({"every_n_train_steps": 4}, 4, 6, 4),
        ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, 4, 6, 4),
    ],
)
def test_lightning_goes_on_at_the_next_batch_wherever_it_saved(
    saving: dict[str, Any], limit: int | None, stop: int, saved: int, folder: Path, noting: Any, tmp_path: Path
) -> None:
    lightning = trainer("lightning")
    first, second = (indices(made)[:limit] for made in [loader(folder)] for _ in range(2))

    def fit(module: Any) -> Any:
        keeping = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, save_last=True, **saving)
        chosen = {**ONE, "callbacks": [keeping], "limit_train_batches": limit}
        lightning.Trainer(**chosen).fit(module, loader(folder), ckpt_path="last")
        return module

    killed = noting(stop)
    with pytest.raises(ZeroDivisionError):
        fit(killed)
    assert killed.seen["train"] == (first + second)[:stop]
    assert fit(noting()).seen["train"] == (first + second)[saved:]
