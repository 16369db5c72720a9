"""Trains a small model for a few epochs on tensors streamed by Headwater, and says how fast they came.

    python examples/demo.py target/demo-set --pairs latents=latent_* conditions=condition_*
    python examples/demo.py s3://bucket/run --endpoint http://127.0.0.1:9000

The model is a linear denoiser: it learns to take noise off the first floating-point tensor of each sample. It needs numpy;
with torch installed, batches are torch tensors and go through ``torch.utils.data.DataLoader``. Beside each epoch stands the
same loop over a plain reader: ``torch.load`` of one file after the other, or one object after the other where that cannot
read the place.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import headwater as hw

BATCH = 8
POSITIONS = 256  # of each tensor, so that the loop measures reading rather than matrix products
WITH_TORCH = importlib.util.find_spec("torch") is not None

Sample = dict[str, Any]


class Denoiser:
    """Learns ``W`` so that ``W @ (x + noise)`` is near ``x``, by gradient descent."""

    def __init__(self) -> None:
        self.weights: np.ndarray | None = None
        self.noise = np.random.default_rng(0)

    def step(self, batch: list[np.ndarray]) -> float:
        """One step on tensors of shape ``[channels, positions]``; returns the mean squared error before it."""
        clean = np.concatenate(batch, axis=1)
        if self.weights is None:
            self.weights = np.zeros((clean.shape[0], clean.shape[0]), dtype=np.float32)
        noisy = clean + self.noise.standard_normal(clean.shape, dtype=np.float32)
        error = self.weights @ noisy - clean
        self.weights -= 0.1 / clean.shape[1] * (error @ noisy.T)
        return float(np.mean(error * error))


def first_float(value: Any) -> np.ndarray | None:
    """The first floating-point tensor of a sample with two dimensions or more, as ``[channels, positions]`` float32."""
    if isinstance(value, dict):
        found = (first_float(item) for name, item in value.items() if name not in ("__key__", "__index__"))
        return next((tensor for tensor in found if tensor is not None), None)
    if not hasattr(value, "shape") or not hasattr(value, "ndim") or value.ndim < 2:
        return None
    name = str(value.dtype).removeprefix("torch.")
    if not name.startswith(("float", "bfloat")):
        return None
    flat = value.reshape(value.shape[0], -1)[:, :POSITIONS]
    return np.asarray(flat.float() if hasattr(flat, "float") else flat, dtype=np.float32)


def through_headwater(dataset: hw.StreamingDataset, epoch: int) -> Iterator[list[Sample]]:
    """Batches in a new random order, every batch fetched at once."""
    if WITH_TORCH:
        import torch
        from torch.utils.data import DataLoader

        shuffle = torch.Generator().manual_seed(epoch)
        yield from DataLoader(dataset, batch_size=BATCH, shuffle=True, generator=shuffle, collate_fn=list)  # type: ignore[arg-type]
        return
    order = np.random.default_rng(epoch).permutation(len(dataset))
    for start in range(0, len(order), BATCH):
        yield dataset.__getitems__(order[start : start + BATCH].tolist())


def plain_reader(dataset: hw.StreamingDataset, folders: list[tuple[Path, str]]) -> Callable[[int], Sample]:
    """Reads one sample the ordinary way, if its files are here and torch is; else one object after the other."""
    if not (WITH_TORCH and folders):
        return lambda index: dataset[index]
    import torch

    def read(index: int) -> Sample:
        key = dataset.key(index)
        paths = (folder / (pattern.replace("*", key) + ".pt") for folder, pattern in folders)
        return {path.parent.name: torch.load(path, weights_only=True) for path in paths}

    return read


def run_epoch(label: str, batches: Iterator[list[Sample]], samples: int, model: Denoiser) -> None:
    """Trains on every batch and prints how it went."""
    began, waited, done, losses = time.perf_counter(), 0.0, 0, []
    asked = began
    for batch in batches:
        waited += time.perf_counter() - asked
        tensors = [tensor for tensor in map(first_float, batch) if tensor is not None]
        if not tensors:
            sys.exit("no sample has a floating-point tensor of two or more dimensions to train on")
        losses.append(model.step(tensors))
        done += len(batch)
        if sys.stderr.isatty():
            print(f"\r{label}: {done}/{samples} samples", end="", file=sys.stderr, flush=True)
        asked = time.perf_counter()
    took = time.perf_counter() - began
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    waiting = 100 * waited / took
    print(f"{label:<28} {done / took:>9.1f} {waiting:>9.0f} % {losses[0]:>11.4f} {losses[-1]:>10.4f}", flush=True)


def main() -> None:
    """Parses the arguments and runs the epochs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder or URI of the samples; sub-folders are fields")
    parser.add_argument("--pairs", nargs="*", default=[], metavar="FIELD=PATTERN", help="where keys are in file names")
    parser.add_argument("--endpoint", help="of an S3-compatible server")
    parser.add_argument("--region")
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()
    options = {name: value for name in ("endpoint", "region") if (value := getattr(args, name))}
    pairs = dict(pair.split("=", 1) for pair in args.pairs)
    dataset = hw.StreamingDataset(hw.Source(args.source, **options), pairs=pairs or None)

    root = Path(args.source)
    folders = [(root / name, pairs.get(name, "*")) for name in dataset.fields] if root.is_dir() else []
    plain = plain_reader(dataset, folders)
    how = "torch.load" if WITH_TORCH and folders else "one after the other"
    print(f"{len(dataset)} samples, fields {', '.join(dataset.fields)}, from {args.source}")
    print(f"{'':<28} {'samples/s':>9} {'waiting':>11} {'first loss':>11} {'last loss':>10}")
    model, plain_model = Denoiser(), Denoiser()
    for epoch in range(args.epochs):
        order = np.random.default_rng(epoch).permutation(len(dataset)).tolist()
        batches = ([plain(i) for i in order[at : at + BATCH]] for at in range(0, len(order), BATCH))
        run_epoch(f"epoch {epoch}, plain ({how})", batches, len(dataset), plain_model)
        run_epoch(f"epoch {epoch}, Headwater", through_headwater(dataset, epoch), len(dataset), model)
    stats = dataset.stats()
    megabytes = stats["source_read_bytes_total"] / 1e6
    print(f"Headwater read {stats['source_requests_total']} objects, {megabytes:.0f} MB.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except hw.HeadwaterError as error:
        sys.exit(f"demo: {error}")
