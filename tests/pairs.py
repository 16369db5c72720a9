"""A small set of latents and their conditions, and what its samples must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import headwater as hw
from same import assert_same

SAMPLES = 40
PAIRS = {"latents": "latent_*", "conditions": "condition_*"}


def latent(number: int) -> dict[str, Any]:
    return {"latents": torch.full((4, 8), float(number)), "fps": 24.0}


def condition(number: int) -> dict[str, Any]:
    return {"embeds": torch.arange(16.0) + number}


def write_pairs(root: Path) -> Path:
    """Writes the set, fields `latents` and `conditions`."""
    for name in ("latents", "conditions"):
        (root / name).mkdir()
    for number in range(SAMPLES):
        torch.save(latent(number), root / f"latents/latent_{number:04}.pt")
        torch.save(condition(number), root / f"conditions/condition_{number:04}.pt")
    return root


def open_pairs(folder: Path) -> hw.StreamingDataset:
    return hw.StreamingDataset({name: folder / name for name in PAIRS}, pairs=PAIRS)


def check(sample: dict[str, Any], number: int) -> None:
    assert list(sample) == ["latents", "conditions", "__key__", "__index__"]
    assert (sample["__key__"], sample["__index__"]) == (f"{number:04}", number)
    assert_same(sample["latents"], latent(number))
    assert_same(sample["conditions"], condition(number))


def read_all(dataset: hw.StreamingDataset) -> None:
    for number, sample in enumerate(dataset[list(range(len(dataset)))]):
        check(sample, number)
