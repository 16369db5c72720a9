"""The way to the GPU, and how busy a real training loop keeps it.

Throughput: batches of 54 MB from the memory tier (fp32, raw entries) until their last byte is on the device. Ours with
``device=``, with ``pin_memory=True`` and with neither, against ``torch.load`` in a ``DataLoader`` of 0, 2, 4 and 8 persistent
workers with ``pin_memory=True`` over the same files in the page cache; and against the limit, copies of one page-locked buffer
of that size.

Training: a small diffusion transformer on the latents, bf16 autocast, AdamW. Busy is the time between two CUDA events around
each step's computation, summed, as a share of the wall time; waiting for a batch and for its copy is outside of them.

Without a GPU there is nothing to measure.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

import headwater as hw
from loader import Files, warm_cache
from measure import Row, aimed, figure, report
from sets import PAIRS, demo_set

BATCH, SAMPLES = 8, 192
WORKERS = (0, 2, 4, 8)
ROUNDS = 3
STEPS, WARM_UP = 48, 8
# Percent of the time that the GPU is to compute.
BUSY = 95.0
WHAT = "8 x 6.8 MB, fp32"


class Block(nn.Module):
    """Attention over the latents, attention to the text, and a network, modulated by the time."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(3))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.key_value, self.cross_out = (nn.Linear(width, size * width) for size in (1, 2, 1))
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width)

    def split(self, x: torch.Tensor, parts: int) -> tuple[torch.Tensor, ...]:
        """`[B, N, parts * C]` → parts of `[B, heads, N, C / heads]`."""
        return x.view(*x.shape[:2], parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: torch.Tensor, text: torch.Tensor, mask: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(moment).unsqueeze(1).chunk(6, -1)
        query, key, value = self.split(self.qkv(self.norms[0](x) * (1 + scale) + shift), 3)
        x = x + gate * self.out(functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        (query,), (key, value) = self.split(self.query(self.norms[1](x)), 1), self.split(self.key_value(text), 2)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.cross_out(attended.transpose(1, 2).flatten(2))
        result: torch.Tensor = x + gate2 * self.network(self.norms[2](x) * (1 + scale2) + shift2)
        return result


class Transformer(nn.Module):
    """Predicts the velocity of latents `[B, 128, 5, 32, 32]`, of which each token is a patch of 2 x 2."""

    def __init__(self, width: int = 1024, depth: int = 12, heads: int = 16) -> None:
        super().__init__()
        self.enter, self.text, self.leave = nn.Linear(512, width), nn.Linear(4096, width), nn.Linear(width, 512)
        self.place = nn.Parameter(torch.randn(1, 5 * 16 * 16, width) * 0.02)
        self.moment = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))

    def forward(self, x: torch.Tensor, time: torch.Tensor, text: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        tokens = self.enter(x) + self.place
        text, mask, moment = self.text(text), mask[:, None, None, :], self.moment(time)
        for block in self.blocks:
            tokens = block(tokens, text, mask, moment)
        result: torch.Tensor = self.leave(tokens)
        return result


def patches(latents: torch.Tensor) -> torch.Tensor:
    """`[B, 128, 5, 32, 32]` → `[B, 1280, 512]`."""
    return latents.view(-1, 128, 5, 16, 2, 16, 2).permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)


class Training:
    """A model and its steps."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Transformer().cuda()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4, fused=True)

    def step(self, batch: dict[str, Any]) -> None:
        """One step of flow matching."""
        clean, conditions = patches(batch["latents"]["latents"]), batch["conditions"]
        noise, time = torch.randn_like(clean), torch.rand(len(clean), 1, device=clean.device)
        with torch.autocast("cuda", torch.bfloat16):
            noisy = torch.lerp(clean, noise, time.unsqueeze(1))
            predicted = self.model(noisy, time, conditions["prompt_embeds"], conditions["prompt_attention_mask"])
            loss = functional.mse_loss(predicted.float(), noise - clean)
        loss.backward()  # type: ignore[no-untyped-call] # torch gives it no types
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def on_device(value: Any) -> Any:
    """What a plain loop does with a batch."""
    if isinstance(value, torch.Tensor):
        return value.to("cuda", non_blocking=True)
    return {name: on_device(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def endless(batches: Any) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from batches


def ours(folder: Path) -> dict[str, hw.StreamingDataLoader]:
    """Our loaders by name, over one warm cache."""
    dataset = hw.StreamingDataset(str(folder), pairs=PAIRS)
    kinds: dict[str, dict[str, Any]] = {"device": {"device": "cuda"}, "pin_memory": {"pin_memory": True}, "neither": {}}
    made = {
        name: hw.StreamingDataLoader(dataset, BATCH, shuffle=True, drop_last=True, **arguments)
        for name, arguments in kinds.items()
    }
    warm_cache(made["neither"])
    return made


def plain(folder: Path, dataset: hw.StreamingDataset) -> dict[str, DataLoader[Any]]:
    """The baselines by name."""
    files = Files(folder, [dataset.key(index) for index in range(len(dataset))], mmap=False)
    return {
        f"torch.load, DataLoader of {workers}, pinned": DataLoader(
            files,
            BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=True,
        )
        for workers in WORKERS
    }


def seconds(call: Callable[[], object]) -> float:
    """Of a call and all that it began on the GPU."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def walk(batches: Any, epochs: int) -> None:
    """Every batch to the device, none kept."""
    for _ in range(epochs):
        for batch in batches:
            on_device(batch)


def batch_bytes(batch: Any) -> int:
    """Bytes of its tensors."""
    if isinstance(batch, torch.Tensor):
        return batch.nbytes
    return sum(map(batch_bytes, batch.values())) if isinstance(batch, dict) else 0


def spread(rates: list[float]) -> float:
    """Half the range, relative to the median."""
    return (max(rates) - min(rates)) / 2 / statistics.median(rates)


def throughput_rows(mine: dict[str, Any], theirs: dict[str, Any]) -> list[Row]:
    """Gigabytes per second to the device, and as a share of what the link does."""
    size = batch_bytes(next(iter(mine["neither"])))
    count = SAMPLES // BATCH
    pinned, there = torch.empty(size, dtype=torch.uint8, pin_memory=True), torch.empty(size, dtype=torch.uint8, device="cuda")

    def copies() -> None:
        for _ in range(2 * count):
            there.copy_(pinned, non_blocking=True)

    calls: dict[str, tuple[Callable[[], None], float]] = {"limit": (copies, 2 * count)}
    calls |= {name: (lambda batches=batches: walk(batches, 4), 4.0 * count) for name, batches in mine.items()}  # type: ignore[misc] # a lambda with defaults
    calls |= {name: (lambda batches=batches: walk(batches, 1), 1.0 * count) for name, batches in theirs.items()}  # type: ignore[misc] # the same
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for call, _ in calls.values():
        call()
    for _ in range(ROUNDS):
        for name, (call, batches) in calls.items():
            rates[name].append(batches * size / seconds(call) / 1e9)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    best = max(theirs, key=middle.__getitem__)
    rows = []
    for name in mine:
        what = f"to the GPU, {name}: {WHAT}"
        rows.append(figure(what, "GB/s", middle[name], middle[best], best, ROUNDS, spread(rates[name])))
    name = f"share of the link, device: {WHAT}"
    limit = "copies of a pinned buffer"
    rows.append(figure(name, "GB/s", middle["device"], middle["limit"], limit, ROUNDS, spread(rates["limit"])))
    for other in theirs:
        print(f"{other}: {middle[other]:.2f} GB/s")
    return rows


def copy_row() -> Row:
    """What the copy to page-locked memory costs."""
    from headwater._headwater import Copies
    from headwater.device import _pinned_like

    source = torch.ones(54_000_000, dtype=torch.uint8)

    def native() -> None:
        pinned = _pinned_like(source)
        Copies([(source.data_ptr(), pinned.data_ptr(), source.nbytes)], pinned).wait()

    def torchs() -> None:
        source.pin_memory()

    rates: list[list[float]] = [[], []]
    for call in (native, torchs):
        call()
    for _ in range(9):
        for side, call in zip(rates, (native, torchs), strict=True):
            side.append(source.nbytes / seconds(call) / 1e9)
    mine, theirs = map(statistics.median, rates)
    return figure("54 MB to page-locked memory", "GB/s", mine, theirs, "tensor.pin_memory()", 9, spread(rates[0]))


def train(training: Training, batches: Any) -> tuple[float, float, float]:
    """Busy share in percent, steps per second, median wait for a batch in milliseconds."""
    event: Callable[..., Any] = torch.cuda.Event
    marks = [(event(enable_timing=True), event(enable_timing=True)) for _ in range(STEPS)]
    waits: list[float] = []
    source = endless(batches)
    for _ in range(WARM_UP):
        training.step(on_device(next(source)))

    def measured() -> None:
        for begin, end in marks:
            began = time.perf_counter()
            batch = on_device(next(source))
            waits.append(time.perf_counter() - began)
            begin.record()
            training.step(batch)
            end.record()

    wall = seconds(measured)
    busy = sum(begin.elapsed_time(end) for begin, end in marks) / 1e3
    return 100 * busy / wall, STEPS / wall, 1e3 * statistics.median(waits)


def training_rows(mine: dict[str, Any], theirs: dict[str, Any]) -> list[Row]:
    """The loop on our loaders against the same loop on each plain one."""
    training = Training()
    one = on_device(next(iter(mine["neither"])))
    for _ in range(WARM_UP):
        training.step(one)

    def steps() -> None:
        for _ in range(STEPS):
            training.step(one)

    alone = seconds(steps) / STEPS
    print(f"one step on a batch that is there: {1e3 * alone:.1f} ms")
    figures = {name: train(training, batches) for name, batches in (mine | theirs).items()}
    best = max(theirs, key=lambda name: figures[name][1])
    rows = []
    for name in theirs:
        ours_busy, busy = figures["device"][0], figures[name][0]
        row = figure(f"GPU busy while training, device: {WHAT}", "%", ours_busy, busy, name, STEPS)
        rows.append(aimed(row, "ours", at_least=BUSY) if name == best else row)
    for name in mine:
        rows.append(figure(f"steps, {name}: {WHAT}", "steps/s", figures[name][1], figures[best][1], best, STEPS))
    rows.append(
        figure(f"steps, device: {WHAT}", "steps/s", figures["device"][1], 1 / alone, "the step without a loader", STEPS)
    )
    wait = f"wait for a batch, p50: {WHAT}"
    rows.append(figure(wait, "ms", figures["device"][2], figures[best][2], best, STEPS, lower=True))
    return rows


def main() -> None:
    """Runs the suite, or the parts named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="throughput, training; both by default")
    parts = parser.parse_args().parts or ["throughput", "training"]
    if not torch.cuda.is_available():
        print("gpu: there is no GPU here, nothing to measure")
        return
    # Eight workers on fewer cores are meant.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    folder = demo_set("6.8 MB", SAMPLES)
    mine = ours(folder)
    theirs = plain(folder, mine["neither"].dataset)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Python {sys.version.split()[0]}")
    rows: list[Row] = []
    if "throughput" in parts:
        rows += [copy_row(), *throughput_rows(mine, theirs)]
    if "training" in parts:
        rows += training_rows(mine, theirs)
    report("gpu", rows)


if __name__ == "__main__":
    main()
