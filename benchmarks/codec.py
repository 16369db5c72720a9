"""The tensor codec beside general compressors, on tensors of the kinds that are cached.

Ours is the core's (``crates/core/examples/codec.rs``): encoding into and decoding out of buffers that are there. The others
are the Python packages of their own C or Rust, one thread, on the same bytes in the same rounds; ``blosc2`` shuffles bytes and
uses zstd level 1, ``pco`` is told the elements' type where it has it. Every result is compared with what went in. The bound is
what an ideal coder of single bytes per plane and block would reach. Speed is compared with the fastest of those that save four
fifths of what ours saves: what stores instead of compressing is always faster.

The limit of decoding is what the memory allows for: a byte decoded reads its share of the coded ones and is written, which
touches 1 + 1 / ratio bytes where ``memcpy``, measured in the same run, touches two. What a processor reads of lines that it
is about to write is left out on both sides; with it there are 2 + 1 / ratio against three, which is a lower limit.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import lz4.frame
import numpy as np
import torch
import zstandard
from pcodec import ChunkConfig, standalone

from measure import RESULTS, Row, aimed, figure, report
from sets import demo_set

ROUNDS = 3
AIMED_AT = 16
# What is aimed at: of the bound that single bytes set; how much more two cores do; the ratio of the demo set; GB/s of one core.
OF_BOUND, CORES_GAIN, DEMO_RATIO = 0.97, 1.8, 3.8
SPED = "bf16 latents kept in fp32"
SPEEDS = {SPED: {"encode": 1.8, "decode": 4.0}, "bf16 latents": {"encode": 1.0, "decode": 2.2}}
DEMO = "the demo set"
SECONDS = 0.4
FOLDER = RESULTS / "sets" / "codec"
# What `pco` takes elements for.
NUMBERS = {2: np.uint16, 4: np.float32, 8: np.int64}

Coder = tuple[Callable[[bytes], Any], Callable[[Any], Any]]


def tensors() -> dict[str, torch.Tensor]:
    """Name → tensor, made the same way each time."""
    torch.manual_seed(0)
    latents = torch.randn(8, 128, 5, 32, 32) * (0.2 + 2 * torch.rand(1, 128, 1, 1, 1))
    embeddings = torch.randn(4, 256, 4096) * (0.1 + torch.rand(4096))
    for number, sample in enumerate(embeddings):
        sample[40 + 30 * number :] = 0  # padding
    sparse = torch.randn(1 << 21) * (torch.rand(1 << 21) < 0.1)
    return {
        "bf16 latents kept in fp32": latents.bfloat16().float(),
        "bf16 latents": latents.bfloat16(),
        "fp32 latents": latents,
        "padded embeddings, bf16 in fp32": embeddings.bfloat16().float(),
        "padded embeddings, fp32": embeddings,
        "fp32 noise": torch.randn(1 << 21),
        "90 % zeros, fp32": sparse,
        "token ids, int64": torch.randint(0, 50_000, (1 << 20,)),
        "random bytes": torch.randint(0, 256, (1 << 22,), dtype=torch.uint8),
    }


def demo_tensors() -> bytes:
    """What tensors of a demo sample hold, several samples in a row."""
    folder = demo_set("6.8 MB", 48)
    loaded = (torch.load(path, weights_only=True) for path in sorted(folder.rglob("*.pt"))[:24])
    return b"".join(raw(value) for sample in loaded for value in sample.values() if isinstance(value, torch.Tensor))


def raw(tensor: torch.Tensor) -> bytes:
    """A tensor's bytes."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def coders(item: int) -> dict[str, Coder]:
    """Name → how it codes and decodes, for elements of so many bytes."""
    fast, usual, out = zstandard.ZstdCompressor(1), zstandard.ZstdCompressor(3), zstandard.ZstdDecompressor()
    made: dict[str, Coder] = {
        "zstd-1": (fast.compress, out.decompress),
        "zstd-3": (usual.compress, out.decompress),
        "lz4": (lz4.frame.compress, lz4.frame.decompress),
        "blosc2": (
            lambda data: blosc2.compress2(data, codec=blosc2.Codec.ZSTD, clevel=1, typesize=item, nthreads=1),
            blosc2.decompress2,
        ),
    }
    if item in NUMBERS:
        config = ChunkConfig(compression_level=4)
        made["pco"] = (
            lambda data: standalone.simple_compress(np.frombuffer(data, NUMBERS[item]), config),
            lambda data: standalone.simple_decompress(data).tobytes(),
        )
    return made


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def ours(item: int, path: Path, threads: int) -> dict[str, Any]:
    """What the core's codec does with a file of elements."""
    command = ["target/release/examples/codec", "--seconds", str(SECONDS), "--threads", str(threads), str(item), str(path)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if not found["lossless"]:
        raise SystemExit(f"{path} did not come back as it was")
    return found


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def limit_row(what: str, runs: list[dict[str, Any]]) -> Row:
    """Decoding on one core against what its memory allows for."""
    decode, copy, ratio = (statistics.median(run[key] for run in runs) for key in ("decode", "copy", "ratio"))
    limit, owning = copy * 2 / (1 + 1 / ratio), copy * 3 / (2 + 1 / ratio)
    touched = f"memcpy of {copy:.1f} GB/s x 2 / {1 + 1 / ratio:.2f} bytes touched; lines read to be written, {owning:.1f}"
    return figure(f"share of the limit of decode, one core: {what}", "GB/s", decode, limit, touched, len(runs))


def all_cores_rows(what: str, item: int, path: Path) -> list[Row]:
    """Time per GB with every core there is, and of one record that is packed by a pool of as many threads."""
    count = cores()
    runs = [ours(item, path, count) for _ in range(ROUNDS)]
    rows = []
    for key, aim in (("encode", 50.0), ("decode", 100.0)):
        took = statistics.median(1e3 / run[key] for run in runs)
        told = f"what {AIMED_AT} cores are to reach" + (f"; {count} are too few to tell" if count < AIMED_AT else "")
        row = figure(f"{key}, all {count} cores: {what}", "ms/GB", took, aim, told, ROUNDS, lower=True)
        rows.append(aimed(row, "ours", at_most=aim) if what == SPED and count >= AIMED_AT else row)
    alone = [ours(item, path, 1) for _ in range(ROUNDS)]
    pack, by_one = (statistics.median(run["pack"] for run in each) for each in (runs, alone))
    name = f"one record packed, pool of {count} threads: {what}"
    return [*rows, figure(name, "GB/s", pack, by_one, "pool of one thread", ROUNDS)]


def spun(seconds: float) -> int:
    """Rounds of nothing in that time."""
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        rounds += sum(1 for _ in range(1000))
    return rounds


def machine_row() -> Row:
    """What a second core gives anybody here, now: two processes that count against one."""
    gains = []
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(spun, [0.1, 0.1])
        for _ in range(ROUNDS):
            alone = pool.apply(spun, [1.0])
            gains.append(sum(pool.map(spun, [1.0, 1.0], chunksize=1)) / alone)
    return figure("the machine: two counting processes against one", "x", statistics.median(gains), 1.0, "one", ROUNDS)


def size_rows(name: str, run: dict[str, Any]) -> list[Row]:
    """Records, however little there is to gain, and what the demo set shrinks to."""
    most = 1.01 * run["bytes"] + 256
    row = figure(f"largest record: {name}", "bytes", run["record"], most, "the tensor, 1 % and 256 bytes", 1, lower=True)
    rows = [aimed(row, "ours", at_most=most)]
    if name == DEMO:
        row = figure(f"ratio: {name}", "", run["ratio"], 1.0, "as it is", 1)
        rows.append(aimed(row, "ours", at_least=DEMO_RATIO))
    return rows


def rows_of(name: str, item: int, data: bytes) -> list[Row]:
    """Ratio against the bound, speed against the best of the others, and how it grows with a second core."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name.replace(' ', '-').replace(',', '').replace('%', 'percent')}.bin"
    path.write_bytes(data)
    alone: list[dict[str, Any]] = []
    both: list[dict[str, Any]] = []
    others: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(ROUNDS):
        alone.append(ours(item, path, 1))
        both.append(ours(item, path, 2))
        for other, (encode, decode) in coders(item).items():
            encoding, coded = timed(lambda encode=encode: encode(data))  # type: ignore[misc] # a lambda with defaults
            decoding, back = timed(lambda decode=decode, coded=coded: decode(coded))  # type: ignore[misc] # the same
            if bytes(back) != data:
                raise SystemExit(f"{other} did not give {name} back")
            others.setdefault(other, []).append(
                (len(data) / len(coded), len(data) / encoding / 1e9, len(data) / decoding / 1e9)
            )

    def median(runs: list[dict[str, Any]], key: str) -> float:
        return float(statistics.median(run[key] for run in runs))

    def spread(runs: list[dict[str, Any]], key: str) -> float:
        values = [run[key] for run in runs]
        return float((max(values) - min(values)) / 2 / statistics.median(values))

    medians = {other: [statistics.median(run[at] for run in runs) for at in range(3)] for other, runs in others.items()}
    for other, (ratio, encoding, decoding) in medians.items():
        print(f"  {name}: {other} {ratio:.2f}, {encoding:.2f} and {decoding:.2f} GB/s")
    bound = figure(f"ratio: {name}", "", median(alone, "ratio"), median(alone, "bound"), "the bound", ROUNDS)
    rows = [aimed(bound, at_least=OF_BOUND), *size_rows(name, alone[0])]
    best = max(medians, key=lambda other: medians[other][0])
    rows.append(figure(f"ratio: {name}", "", median(alone, "ratio"), medians[best][0], best, ROUNDS))
    saved = 1 - 1 / median(alone, "ratio")
    alike = [other for other, (ratio, *_) in medians.items() if 1 - 1 / ratio >= 0.8 * saved] or [best]
    for at, key in ((1, "encode"), (2, "decode")):
        best = max(alike, key=lambda other: medians[other][at])
        what = f"{key}, one core: {name}"
        row = figure(what, "GB/s", median(alone, key), medians[best][at], best, ROUNDS, spread(alone, key))
        rows.append(aimed(row, "ours", at_least=SPEEDS[name][key]) if name in SPEEDS else row)
        what = f"{key}, two cores: {name}"
        row = figure(what, "GB/s", median(both, key), median(alone, key), "one core", ROUNDS, spread(both, key))
        rows.append(aimed(row, at_least=CORES_GAIN))
    rows.append(figure(f"decode, one core: {name}", "GB/s", median(alone, "decode"), median(alone, "copy"), "memcpy", ROUNDS))
    return [*rows, limit_row(name, alone), *all_cores_rows(name, item, path)]


def main() -> None:
    """Runs the suite."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="kinds of tensors by their names; all of them by default")
    names = parser.parse_args().names
    given = {name: (tensor.element_size(), raw(tensor)) for name, tensor in tensors().items() if not names or name in names}
    if not names or DEMO in names:
        given[DEMO] = (4, demo_tensors())
    rows = [row for name, (item, data) in given.items() for row in rows_of(name, item, data)]
    report("codec", [*rows, machine_row()])


if __name__ == "__main__":
    main()
