"""`StreamingDataset` under torchdata's `StatefulDataLoader`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

import headwater as hw
from same import assert_same

# torchdata calls what torch has since deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
SAMPLES = 24


def value(number: int) -> torch.Tensor:
    return torch.arange(6.0) + number


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set")
    for number in range(SAMPLES):
        torch.save(value(number), root / f"{number:03}.pt")
    return root


def loader(folder: Path, workers: int) -> StatefulDataLoader[Any]:
    generator = torch.Generator().manual_seed(3)
    dataset = hw.StreamingDataset({"x": folder})
    return StatefulDataLoader(dataset, 4, shuffle=True, generator=generator, num_workers=workers)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_is_gone_on_with_where_its_state_was_taken(folder: Path, workers: int) -> None:
    original = loader(folder, workers)
    batches = iter(original)
    first = [next(batches) for _ in range(2)]
    state = original.state_dict()
    rest = list(batches)
    indices = [batch["__index__"].tolist() for batch in first + rest]
    seen = [index for batch in indices for index in batch]
    assert sorted(seen) == list(range(SAMPLES))
    assert seen != sorted(seen)

    resumed = loader(folder, workers)
    resumed.load_state_dict(state)
    again = list(resumed)
    assert [batch["__index__"].tolist() for batch in again] == indices[2:]
    for batch in again:
        assert_same(batch["x"], torch.stack([value(number) for number in batch["__index__"].tolist()]))
