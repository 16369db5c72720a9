"""Batches in page-locked memory and on a GPU: every byte is right, however late copies run, however early batches go."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import headwater as hw

SAMPLES, BATCH = 24, 4
# Of one sample; large enough that copies take a while, and that a batch's memory is a block of its own.
ELEMENTS = 1 << 19
# Some 25 ms of a GPU at 2 GHz.
NAP = 50_000_000

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is false")


def content(number: int) -> torch.Tensor:
    return torch.arange(ELEMENTS, dtype=torch.int32) * 31 + number


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set")
    for number in range(SAMPLES):
        torch.save({"x": content(number), "half": torch.full((100,), number / 2).half()}, root / f"{number:02}.pt")
    return root


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    """Content of all samples, on the device."""
    return torch.stack([content(number) for number in range(SAMPLES)]).cuda()


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    yield
    torch.cuda.synchronize()


def loader(folder: Path, batch: int = BATCH, **arguments: Any) -> hw.StreamingDataLoader:
    return hw.StreamingDataLoader(hw.StreamingDataset(folder), batch, **{"shuffle": True, "seed": 3, **arguments})


def matches(batch: dict[str, Any], expected: torch.Tensor) -> torch.Tensor:
    """Whether a batch on the device is right, as a tensor there: nothing waits for it."""
    index = batch["__index__"]
    return (batch["x"] == expected[index]).all() & (batch["half"] == (index / 2).half().unsqueeze(1)).all()


def side() -> Any:
    from headwater.device import side_stream

    return side_stream(torch.device("cuda", torch.cuda.current_device()))


def nap_beside() -> None:
    """Keeps the stream that batches are copied on busy."""
    with torch.cuda.stream(side()):
        torch.cuda._sleep(NAP)


# ---- pinned


def test_all_tensors_are_pinned(folder: Path) -> None:
    for batch in loader(folder, pin_memory=True):
        assert all(batch[name].is_pinned() for name in ("x", "half", "__index__", "__pad__"))
        assert not batch["x"].is_cuda
        assert isinstance(batch["__key__"][0], str)


def test_pinned_batches_hold_what_was_stored(folder: Path) -> None:
    for _ in range(4):
        for batch in loader(folder, pin_memory=True):
            assert torch.equal(batch["x"], torch.stack([content(number) for number in batch["__index__"].tolist()]))


def test_a_pinned_batch_may_be_dropped_while_it_is_being_copied(folder: Path, expected: torch.Tensor) -> None:
    made, right = loader(folder, pin_memory=True), []
    copying = torch.cuda.Stream()
    for _ in range(4):
        for batch in made:
            # Copies queue behind a nap: all of an epoch's are still to come when their batches are gone.
            with torch.cuda.stream(copying):
                torch.cuda._sleep(NAP)
                moved = {name: batch[name].to("cuda", non_blocking=True) for name in ("x", "half", "__index__")}
                right.append(matches(moved, expected))
            del batch, moved
    torch.cuda.synchronize()
    assert len(right) == 4 * SAMPLES // BATCH
    assert torch.stack(right).all()


# ---- on the device


def test_bytes_on_the_device_are_those_that_were_stored(folder: Path, expected: torch.Tensor) -> None:
    made = loader(folder, device="cuda")
    for _ in range(6):
        seen = []
        for batch in made:
            assert {batch[name].device for name in ("x", "half", "__index__", "__pad__")} == {expected.device}
            assert batch["x"].dtype == torch.int32
            assert matches(batch, expected)
            seen += batch["__index__"].tolist()
        assert sorted(seen) == list(range(SAMPLES))


def test_it_waits_for_a_slow_copy(folder: Path, expected: torch.Tensor) -> None:
    made, right = loader(folder, device="cuda"), []
    for _ in range(4):
        nap_beside()
        for batch in made:
            right.append(matches(batch, expected))
            nap_beside()
    assert torch.stack(right).all()


def test_a_batch_may_be_dropped_before_the_consumer_has_read_it(folder: Path, expected: torch.Tensor) -> None:
    made, right = loader(folder, device="cuda"), []
    for _ in range(6):
        for batch in made:
            torch.cuda._sleep(NAP)
            right.append(matches(batch, expected))
            # Its memory would be the next batch's now, were it not kept for this stream.
            del batch
    assert torch.stack(right).all()


def test_both_may_be_slow_while_memory_is_short(folder: Path, expected: torch.Tensor) -> None:
    made, right = loader(folder, device="cuda"), []
    for _ in range(6):
        for number, batch in enumerate(made):
            nap_beside()
            # As large as a batch's: taken from whatever is thought to be free.
            with torch.cuda.stream(side()):
                torch.full((BATCH * ELEMENTS,), -1, dtype=torch.int32, device="cuda")
            if number % 2:
                torch.cuda._sleep(2 * NAP)
            right.append(matches(batch, expected))
            del batch
            torch.full((BATCH * ELEMENTS,), -2, dtype=torch.int32, device="cuda")
    assert torch.stack(right).all()


def test_the_consumers_stream_may_be_any_and_change(folder: Path, expected: torch.Tensor) -> None:
    made, right = loader(folder, device="cuda"), []
    streams = [torch.cuda.default_stream(), *(torch.cuda.Stream() for _ in range(3))]
    for epoch in range(3):
        batches = iter(made)
        for number in range(len(made)):
            with torch.cuda.stream(streams[(epoch + number) % 4]):
                batch = next(batches)
                torch.cuda._sleep(NAP)
                right.append(matches(batch, expected))
                del batch
    torch.cuda.synchronize()
    assert torch.stack(right).all()


def test_nothing_waits_for_the_consumers_stream(folder: Path) -> None:
    made = loader(folder, device="cuda")
    list(made)
    torch.cuda.synchronize()
    batches = iter(made)
    next(batches)
    torch.cuda._sleep(100 * NAP)
    for _ in range(3):
        next(batches)
    assert not torch.cuda.current_stream().query(), "three batches were handed over while it was busy"


def test_a_list_of_all_batches_is_right(folder: Path, expected: torch.Tensor) -> None:
    made = loader(folder, 1, device="cuda:0")
    batches = [batch for _ in range(4) for batch in made]
    assert len(batches) == 4 * SAMPLES
    assert all(matches(batch, expected) for batch in batches)


def test_leaving_with_copies_under_way_harms_no_later_pass(folder: Path, expected: torch.Tensor) -> None:
    made, right = loader(folder, device="cuda"), []
    for _ in range(10):
        nap_beside()
        for batch in made:
            right.append(matches(batch, expected))
            break
        made.close()
    right += [matches(batch, expected) for batch in made]
    assert torch.stack(right).all()


def test_what_a_collate_fn_returns_moves(folder: Path, expected: torch.Tensor) -> None:
    def collate(samples: list[Any]) -> Any:
        packed = torch.nn.utils.rnn.pack_sequence([samples[0]["half"], samples[1]["half"][:50]])
        on_device = torch.full((10,), samples[0]["__index__"], device="cuda")
        return {"x": (samples[0]["x"], [samples[1]["x"]]), "packed": packed, "there": on_device, "name": "n"}

    for number, batch in enumerate(loader(folder, 2, shuffle=False, device="cuda", collate_fn=collate)):
        first, (second,) = batch["x"]
        assert torch.equal(first, expected[2 * number])
        assert torch.equal(second, expected[2 * number + 1])
        assert batch["packed"].data.is_cuda
        assert batch["there"].tolist() == [2 * number] * 10
        assert batch["name"] == "n"


def test_a_transform_goes_before(folder: Path, expected: torch.Tensor) -> None:
    dataset = hw.StreamingDataset(folder, transform=lambda sample: {"x": sample["x"] + 1, "i": sample["__index__"]})
    for batch in hw.StreamingDataLoader(dataset, BATCH, device="cuda"):
        assert torch.equal(batch["x"], expected[batch["i"]] + 1)


# ---- memory


def test_memory_on_the_device_is_given_back(folder: Path) -> None:
    made = loader(folder, device="cuda")
    list(made)
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        for batch in made:
            torch.cuda._sleep(1000)
            del batch
    made.close()
    gc.collect()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


def test_page_locked_memory_is_bounded(folder: Path) -> None:
    if not hasattr(torch.cuda, "host_memory_stats") or "allocated_bytes.current" not in torch.cuda.host_memory_stats():
        pytest.skip("this torch does not tell")
    made = loader(folder, device="cuda")
    # It is never given back: what other tests left is used again, which only makes it less.
    before = torch.cuda.host_memory_stats()["allocated_bytes.current"]
    for _ in range(20):
        for _batch in made:
            pass
    # What is copied, on its way, and waiting for its event.
    more = torch.cuda.host_memory_stats()["allocated_bytes.current"] - before
    assert more <= 8 * BATCH * ELEMENTS * 4 + (1 << 20)
