"""Trains a small model for a few epochs on streamed batches, and says what its accelerator would have waited for.

    python examples/demo.py target/demo-set --pairs latents=latent_* conditions=condition_* --remote
    python examples/demo.py s3://bucket/run --endpoint http://127.0.0.1:9000

The model is a linear denoiser: it learns to take noise off the first floating-point tensor of each sample. After its update
each step sleeps until `--step` is over, in place of an accelerator. ``--remote`` reads local files through an emulated remote
of 30 ms to the first byte and 100 MB/s per stream. Beside every epoch stands the same loop over a plain reader, which takes
one sample after the other from the same place. Needs numpy; uses torch tensors where torch is installed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import headwater as hw

POSITIONS = 256  # of each tensor, so that the loop measures reading rather than matrix products
REMOTE = hw.Throttle(first_byte="30ms", stream_rate="100MB")
STAGES = ("source", "decode", "collate")


class Denoiser:
    """Learns ``W`` so that ``W @ (x + noise)`` is near ``x``, by gradient descent."""

    def __init__(self) -> None:
        self.weights: np.ndarray | None = None
        self.noise = np.random.default_rng(0)

    def step(self, batch: np.ndarray) -> float:
        """One step on ``[samples, channels, positions]``; returns the mean squared error before it."""
        clean = np.concatenate(list(batch), axis=1)
        if self.weights is None:
            self.weights = np.zeros((clean.shape[0], clean.shape[0]), dtype=np.float32)
        noisy = clean + self.noise.standard_normal(clean.shape, dtype=np.float32)
        error = self.weights @ noisy - clean
        self.weights -= 0.1 / clean.shape[1] * (error @ noisy.T)
        return float(np.mean(error * error))


def first_float(batch: Any) -> np.ndarray | None:
    """The first floating-point tensor of a batch, as ``[samples, channels, positions]`` float32."""
    if isinstance(batch, dict):
        found = (first_float(item) for name, item in batch.items() if not name.startswith("__"))
        return next((tensor for tensor in found if tensor is not None), None)
    if not hasattr(batch, "shape") or len(batch.shape) < 3:
        return None
    if not str(batch.dtype).removeprefix("torch.").startswith(("float", "bfloat")):
        return None
    flat = batch.reshape(batch.shape[0], batch.shape[1], -1)[:, :, :POSITIONS]
    return np.asarray(flat.float() if hasattr(flat, "float") else flat, dtype=np.float32)


def one_after_the_other(dataset: hw.StreamingDataset, batch_size: int, epoch: int) -> Iterator[Any]:
    """The plain reader: nothing ahead, nothing at once, nothing kept."""
    order = np.random.default_rng(epoch).permutation(len(dataset))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        samples = [dataset[int(index)] for index in order[start : start + batch_size]]
        singles = [first_float(unsqueezed(sample)) for sample in samples]
        yield {"x": np.concatenate([single for single in singles if single is not None])}


def unsqueezed(sample: Any) -> Any:
    """A sample as a batch of one."""
    if isinstance(sample, dict):
        return {name: unsqueezed(item) for name, item in sample.items()}
    return sample[None] if hasattr(sample, "shape") else sample


@dataclass
class Epoch:
    """How an epoch went. Like MLPerf Storage, utilization leaves the first step out."""

    label: str
    samples: int = 0
    seconds: float = 0.0
    computing: float = 0.0
    behind_first: float = 0.0
    losses: list[float] = field(default_factory=list)
    stats: dict[str, float] = field(default_factory=dict)

    def row(self) -> str:
        """A line of the table."""
        busy = 100 * self.computing / self.behind_first if self.behind_first else 0
        asked = self.stats.get("loader_units_asked_total", 0)

        def share(name: str) -> str:
            return f"{100 * self.stats[f'loader_units_{name}_total'] / asked:.0f} %" if asked else "–"

        stalls = [self.stats.get(f"loader_stall_{stage}_seconds_total") for stage in STAGES]
        waits = ["–" if stall is None else f"{stall:.2f} s" for stall in stalls]
        columns = (f"{self.samples / self.seconds:.1f}", share("ready"), share("reused"), *waits, f"{busy:.1f} %")
        return f"{self.label:<18}" + "".join(f"{column:>10}" for column in (*columns, f"{self.losses[-1]:.4f}"))


COLUMNS = ("samples/s", "ready", "reuse", "source", "decode", "collate", "AU", "loss")
HEADER = " " * 18 + "".join(f"{column:>10}" for column in COLUMNS)


def run_epoch(label: str, batches: Iterator[Any], total: int, model: Denoiser, step: float) -> Epoch:
    """Trains on every batch, each step taking at least `step` seconds."""
    epoch = Epoch(label)
    began = time.perf_counter()
    first_done = began
    for number, batch in enumerate(batches):
        started = time.perf_counter()
        tensor = first_float(batch)
        if tensor is None:
            sys.exit("no sample has a floating-point tensor of two or more dimensions to train on")
        epoch.losses.append(model.step(tensor))
        time.sleep(max(0.0, started + step - time.perf_counter()))
        done = time.perf_counter()
        epoch.samples += len(tensor)
        if number == 0:
            first_done = done
        else:
            epoch.computing += done - started
        if sys.stderr.isatty():
            rate = epoch.samples / (done - began)
            print(f"\r\033[K{label}: {epoch.samples}/{total} samples, {rate:.1f}/s", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    epoch.seconds = time.perf_counter() - began
    epoch.behind_first = time.perf_counter() - first_done
    return epoch


def through_headwater(loader: hw.StreamingDataLoader, number: int, model: Denoiser, step: float) -> Epoch:
    """One epoch of the loader, with what was counted in it."""
    before = loader.stats()
    epoch = run_epoch(f"{number}  Headwater", iter(loader), len(loader.dataset), model, step)
    after = loader.stats()
    epoch.stats = {name: after[name] - before.get(name, 0) for name in after if name.endswith("_total")}
    return epoch


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder or URI of the samples; sub-folders are fields")
    parser.add_argument("--pairs", nargs="*", default=[], metavar="FIELD=PATTERN", help="where keys are in file names")
    parser.add_argument("--endpoint", help="of an S3-compatible server")
    parser.add_argument("--region")
    parser.add_argument("--remote", action="store_true", help="emulate a remote: 30 ms to the first byte, 100 MB/s per stream")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--step", type=float, default=50, metavar="MS", help="what a training step takes; 50 by default")
    parser.add_argument("--memory", default=None, metavar="SIZE", help="capacity of the cache, like 4GB")
    parser.add_argument("--collate", default="stack", choices=["stack", "pad"])
    return parser.parse_args()


def main() -> None:
    """Runs both loops over the same place and prints the table."""
    args = parsed()
    options = {name: value for name in ("endpoint", "region") if (value := getattr(args, name))}
    place = hw.Source(args.source, **options)
    pairs = dict(pair.split("=", 1) for pair in args.pairs) or None
    fetch = hw.FetchConfig(throttle=REMOTE) if args.remote else None
    dataset = hw.StreamingDataset(place, pairs=pairs, fetch=fetch, cache=hw.CacheConfig(memory=args.memory))
    uncached = hw.StreamingDataset(place, pairs=pairs, fetch=fetch, cache=hw.CacheConfig(memory=0))
    loader = hw.StreamingDataLoader(dataset, args.batch_size, shuffle=True, drop_last=True, collate=args.collate)

    how = ", through an emulated remote: 30 ms to the first byte, 100 MB/s per stream" if args.remote else ""
    print(f"{len(dataset)} samples, fields {', '.join(dataset.fields)}, from {args.source}{how}")
    print(f"batches of {args.batch_size}, a step takes {args.step:g} ms; AU is the share of time spent in steps")
    print(HEADER)
    model, plain_model = Denoiser(), Denoiser()
    for number in range(args.epochs):
        plain = one_after_the_other(uncached, args.batch_size, number)
        print(run_epoch(f"{number}  plain reader", plain, len(uncached), plain_model, args.step / 1000).row(), flush=True)
        print(through_headwater(loader, number, model, args.step / 1000).row(), flush=True)
    stats = loader.stats()
    read, cached = stats["source_read_bytes_total"] / 1e6, stats["cache_memory_bytes"] / 1e6
    print(f"Headwater read {stats['source_requests_total']} objects, {read:.0f} MB; its cache holds {cached:.0f} MB.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except hw.HeadwaterError as error:
        sys.exit(f"demo: {error}")
