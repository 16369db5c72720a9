"""The reader against ``torch.load``: whole samples from local files in the page cache, no cache on either side.

Two rows per sample size: handing out the tensors, and copying them into a reused batch slot (which ``mmap=True`` needs to be
comparable, since it reads nothing by itself).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import headwater as hw
from measure import Row, compare, report
from sets import PAIRS, demo_set

SETS = {"6.8 MB": 48, "96 KB": 400}


def rows_of(size: str, folder: Path) -> list[Row]:
    """Both rows for one sample size."""
    dataset = hw.StreamingDataset(str(folder), pairs=PAIRS)
    keys = [dataset.key(index) for index in range(len(dataset))]
    files = [(folder / f"latents/latent_{key}.pt", folder / f"conditions/condition_{key}.pt") for key in keys]

    def plain(index: int, mmap: bool = False) -> dict[str, Any]:
        latents, conditions = files[index]
        return {
            "latents": torch.load(latents, weights_only=True, mmap=mmap),
            "conditions": torch.load(conditions, weights_only=True, mmap=mmap),
        }

    first = dataset[0]
    slots = torch.empty_like(first["latents"]["latents"]), torch.empty_like(first["conditions"]["prompt_embeds"])

    def load(read: Any) -> None:
        for index in range(len(files)):
            read(index)

    def fill(read: Any) -> None:
        for index in range(len(files)):
            sample = read(index)
            slots[0].copy_(sample["latents"]["latents"])
            slots[1].copy_(sample["conditions"]["prompt_embeds"])

    def mapped(index: int) -> dict[str, Any]:
        return plain(index, mmap=True)

    what = f"{size} samples, raw .pt fp32, local page cache"
    return [
        compare(
            f"reader: {what}", "samples/s", len(files), lambda: load(dataset.__getitem__), {"torch.load": lambda: load(plain)}
        ),
        compare(
            f"reader + copy into a reused slot: {what}",
            "samples/s",
            len(files),
            lambda: fill(dataset.__getitem__),
            {"torch.load": lambda: fill(plain), "torch.load(mmap=True)": lambda: fill(mapped)},
        ),
    ]


def main() -> None:
    """Runs the suite."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    report("reader", [row for size, n in SETS.items() for row in rows_of(size, demo_set(size, n))])


if __name__ == "__main__":
    main()
