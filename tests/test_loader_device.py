"""`pin_memory=` and `device=` of `StreamingDataLoader`, as far as can be seen without an accelerator."""

from __future__ import annotations

import collections
import contextlib
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import headwater as hw
from clips import check, closed_while_two_wait, indices, loader, value, write_clips
from forks import in_child
from headwater import device as placing
from same import assert_same


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("set"))


@pytest.fixture
def pinning(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accelerator whose page-locked memory is any memory."""
    monkeypatch.setattr(placing, "_pins", lambda: True)
    monkeypatch.setattr(placing, "_pinned_like", torch.empty_like)
    monkeypatch.setattr(placing, "_is_pinned", lambda tensor: False)


class Streams:
    """A device with streams that keeps a log. What is on it has no content."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.running = self

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def current_stream(self, device: Any) -> Stream:
        return Stream(self, "consumer")

    def Stream(self, device: Any) -> Stream:  # noqa: N802 - torch's name
        return Stream(self, "side")

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self.log.append(f"enter {stream.name}")
        yield
        self.log.append(f"leave {stream.name}")


class Stream:
    def __init__(self, streams: Streams, name: str) -> None:
        self.streams, self.name, self.events = streams, name, 0

    def record_event(self) -> Event:
        self.events += 1
        self.streams.log.append(f"record {self.name} {self.events}")
        return Event(self.streams, f"{self.name} {self.events}")

    def wait_event(self, event: Event) -> None:
        self.streams.log.append(f"{self.name} waits for {event.name}")


class Event:
    def __init__(self, streams: Streams, name: str) -> None:
        self.streams, self.name = streams, name

    def synchronize(self) -> None:
        self.streams.log.append(f"host waits for {self.name}")


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch, pinning: None) -> Iterator[Streams]:
    made = Streams()
    monkeypatch.setattr(placing, "_module_of", lambda device: made)
    monkeypatch.setattr(placing, "_WITH_STREAMS", ("meta",))
    monkeypatch.setattr(placing, "_record", lambda tensor, stream: made.log.append(f"keep for {stream.name}"))
    placing.side_stream.cache_clear()
    yield made
    placing.side_stream.cache_clear()


# ---- arguments


def test_pin_memory_without_an_accelerator_warns_once_and_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "_pins", lambda: False)
    placing._warn.cache_clear()
    with pytest.warns(UserWarning, match="pin_memory=True does nothing here") as warned:
        first = loader(folder, pin_memory=True)
    assert Path(warned[0].filename).name in ("clips.py", "test_loader_device.py"), "it points at who made the loader"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = loader(folder, pin_memory=True)
    for batch in (*first, *second):
        check(batch)


def test_the_processor_is_where_batches_are_anyway(folder: Path) -> None:
    for where in ("cpu", torch.device("cpu")):
        check(next(iter(loader(folder, device=where))))


@pytest.mark.parametrize("wrong", ["nowhere", "cuda:x", "hpu", 99])
def test_a_device_that_is_not_there_is_refused(folder: Path, wrong: Any) -> None:
    with pytest.raises(hw.ConfigError, match=f"device='{wrong}'"):
        loader(folder, device=wrong)


@pytest.mark.parametrize("arguments", [{"pin_memory": True}, {"device": "cuda"}, {"device": "cpu"}])
def test_both_are_torchs(folder: Path, arguments: dict[str, Any]) -> None:
    dataset = hw.StreamingDataset(folder, framework="numpy")
    with pytest.raises(hw.ConfigError, match="pin_memory and device are torch's"):
        hw.StreamingDataLoader(dataset, 4, **arguments)


def test_pin_memory_is_true_or_false(folder: Path) -> None:
    with pytest.raises(hw.ConfigError, match="expected true or false"):
        loader(folder, pin_memory="yes")


def test_a_file_may_say_so(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "headwater.toml"
    config.write_text(f'source = "{folder}"\n[loader]\nbatch_size = 4\ndevice = "meta"\n')
    assert next(iter(hw.open(config)))["b"].device.type == "meta"
    with pytest.raises(hw.ConfigError, match="pin_memory and device are torch's"):
        hw.open(config, framework="numpy")


# ---- what is in a batch


def test_all_tensors_move_and_nothing_else_does(folder: Path) -> None:
    plain, batch = next(iter(loader(folder))), next(iter(loader(folder, device="meta")))
    assert {batch[name].device.type for name in ("b", "__index__", "__pad__")} == {"meta"}
    assert {batch["a"][name].device.type for name in ("x", "fps", "frames")} == {"meta"}
    assert list(batch) == list(plain)
    assert (batch["a"]["name"], batch["__key__"]) == (plain["a"]["name"], plain["__key__"])


@pytest.mark.usefixtures("pinning")
@pytest.mark.parametrize("collate", ["stack", "list", "pad"])
def test_copies_are_what_was_copied(folder: Path, collate: Any) -> None:
    plain, copied = loader(folder, collate=collate), loader(folder, collate=collate, pin_memory=True)
    for _ in range(3):
        for mine, theirs in zip(copied, plain, strict=True):
            assert list(mine.pop("__key__")) == list(theirs.pop("__key__"))
            assert_same(mine, theirs)


@pytest.mark.usefixtures("pinning")
def test_large_tensors_are_copied_whole(tmp_path: Path) -> None:
    values = [torch.randn(3, 700_001) for _ in range(4)]
    for number, tensor in enumerate(values):
        torch.save(tensor, tmp_path / f"{number}.pt")
    made = hw.StreamingDataLoader(hw.StreamingDataset(tmp_path), 2, pin_memory=True)
    for _ in range(3):
        batches = list(made)
        assert_same(torch.cat([batch["data"] for batch in batches]), torch.stack(values))


@pytest.mark.usefixtures("pinning")
def test_what_a_collate_fn_uses_again_is_copied_before_it_is_called_again(folder: Path) -> None:
    kept = torch.empty(4, 500_000)

    def collate(samples: list[Any]) -> torch.Tensor:
        for row, sample in zip(kept, samples, strict=True):
            row.fill_(sample["__index__"])
        return kept

    made = loader(folder, collate_fn=collate, transform_threads=0, pin_memory=True, shuffle=False, drop_last=True)
    for number, batch in enumerate(made):
        assert batch.eq(torch.arange(4 * number, 4 * number + 4).unsqueeze(1)).all()


@pytest.mark.usefixtures("pinning")
def test_a_transform_is_applied_before(folder: Path) -> None:
    dataset = hw.StreamingDataset(folder, transform=lambda sample: {"double": sample["b"] * 2})
    batches = list(hw.StreamingDataLoader(dataset, 5, pin_memory=True))
    assert torch.cat([batch["double"] for batch in batches])[:, 0].tolist() == list(range(0, 100, 2))


class Pair(NamedTuple):
    left: torch.Tensor
    right: list[torch.Tensor]


class Own(tuple[torch.Tensor, ...]):
    """A tuple that knows how to be moved, and that its second tensor is not."""

    __slots__ = ()

    def pin_memory(self) -> Own:
        return Own((self[0] + 1, self[1]))

    def to(self, device: torch.device) -> Own:
        assert self[0].item() == 1, "pinned before"
        return Own((self[0].to(device), self[1]))


def test_containers_are_entered_and_keep_their_type(folder: Path, streams: Streams) -> None:
    made = collections.OrderedDict(
        pair=Pair(torch.ones(2), [torch.ones(1)]),
        own=Own((torch.zeros(1), torch.ones(1))),
        text="x",
        both=(b"y", torch.ones(1)),
    )
    plain, batch = dict(made), next(iter(loader(folder, collate_fn=lambda _: made, device="meta")))
    assert type(batch) is collections.OrderedDict
    assert type(batch["pair"]) is Pair
    assert [it.device.type for it in (batch["pair"].left, batch["pair"].right[0], batch["both"][1])] == ["meta"] * 3
    assert (batch["text"], batch["both"][0]) == ("x", b"y")
    assert type(batch["own"]) is Own
    assert [it.device.type for it in batch["own"]] == ["meta", "cpu"]
    assert dict(made) == plain, "what was returned stays as it was"
    assert made["pair"].left.device.type == "cpu"


# ---- order of things on a device


def test_a_batch_is_copied_beside_the_consumer_and_waited_for_when_it_is_handed_over(folder: Path, streams: Streams) -> None:
    made = iter(loader(folder, device="meta", drop_last=True))
    next(made)
    handed = streams.log[streams.log.index("consumer waits for side 1") :]
    assert streams.log[:3] == ["enter side", "leave side", "record side 1"]
    # a: x, fps, frames; b; __index__
    assert handed == ["consumer waits for side 1", *["keep for consumer"] * 5]


def test_the_next_batch_is_under_way_when_one_is_handed_over(folder: Path, streams: Streams) -> None:
    made = loader(folder, device="meta")
    assert len(list(made)) == 13
    # Everything is in the cache now, so nothing but the loop is slow.
    streams.log.clear()
    batches = iter(made)
    next(batches)
    for _ in range(10):
        time.sleep(0.01)
        next(batches)
    marks = [entry for entry in streams.log if entry.startswith(("record", "consumer waits"))]
    first = int(marks[0].split()[-1])
    for number in range(first + 1, first + 10):
        sent, handed = marks.index(f"record side {number + 1}"), marks.index(f"consumer waits for side {number}")
        assert sent < handed, f"batch {number + 1} was on its way"


def test_the_host_waits_when_copies_pile_up(folder: Path, streams: Streams) -> None:
    assert len(list(loader(folder, device="meta"))) == 13
    waits = [entry for entry in streams.log if entry.startswith("host")]
    assert waits == [f"host waits for side {number}" for number in range(1, 11)]


# ---- state, errors, ends


@pytest.fixture(params=["pinned", "on a device"])
def ahead(request: pytest.FixtureRequest, folder: Path) -> Callable[..., hw.StreamingDataLoader]:
    """Makes loaders that take batches ahead."""
    request.getfixturevalue("streams")
    placed: dict[str, Any] = {"pin_memory": True} if request.param == "pinned" else {"device": "meta"}
    return lambda where=folder, *arguments, **others: loader(where, *arguments, **{**placed, **others})


def keys(batches: Any) -> list[list[str]]:
    return [list(batch["__key__"]) for batch in batches]


def test_state_counts_what_was_handed_over_and_not_what_was_taken(folder: Path, ahead: Callable[..., Any]) -> None:
    mine, plain = ahead(), loader(folder)
    for _ in range(3):
        for batch, other in zip(mine, plain, strict=True):
            assert list(batch["__key__"]) == list(other["__key__"])
            assert mine.state_dict() == plain.state_dict()
            time.sleep(0.002)
        assert mine.state_dict() == plain.state_dict()


def test_a_state_of_every_step_resumes_right(ahead: Callable[..., Any]) -> None:
    whole = keys(ahead())
    for stop in range(1, 13):
        made, other = ahead(), ahead()
        batches = iter(made)
        for _ in range(stop):
            next(batches)
        other.load_state_dict(made.state_dict())
        assert keys(other) == whole[stop:]


def test_leaving_and_closing_begin_anew(folder: Path, ahead: Callable[..., Any]) -> None:
    made, other = ahead(), loader(folder)
    assert keys([next(iter(made))]) == keys(other)[:1]
    with made:
        batches = iter(made)
        next(batches)
    assert next(batches, None) is None
    assert len(keys(made)) == 13
    made.set_epoch(0)
    other.set_epoch(0)
    assert keys(made) == keys(other)


def test_closing_ends_a_wait_of_another_thread(ahead: Callable[..., Any]) -> None:
    made = ahead(fetch=hw.FetchConfig(throttle=hw.Throttle(first_byte="1h")))
    assert closed_while_two_wait(made) == [None, None]


def test_a_damaged_object_is_named_when_its_batch_would_have_come(tmp_path: Path, ahead: Callable[..., Any]) -> None:
    for number in range(6):
        torch.save(value(number), tmp_path / f"{number}.pt")
    (tmp_path / "4.pt").write_bytes(b"damage")
    batches = iter(ahead(tmp_path, 2, shuffle=False))
    for _ in range(2):
        assert next(batches) is not None
        time.sleep(0.05)
    with pytest.raises(hw.CorruptDataError, match=r"4\.pt"):
        next(batches)
    assert next(batches, None) is None


def test_what_a_collate_fn_raises_is_raised_in_its_place_and_the_pass_goes_on(ahead: Callable[..., Any]) -> None:
    def collate(samples: list[Any]) -> Any:
        if samples[0]["__index__"] == 8:
            raise ZeroDivisionError
        return {"first": samples[0]["__index__"]}

    made = ahead(shuffle=False, collate_fn=collate)
    batches, firsts = iter(made), []
    for number in range(13):
        if number == 2:
            with pytest.raises(ZeroDivisionError):
                next(batches)
        else:
            firsts.append(next(batches)["first"])
        assert made.state_dict()["position"] == min(4 * number + 4, 50)
        time.sleep(0.005)
    assert firsts == [number for number in range(0, 50, 4) if number != 8]
    assert next(batches, None) is None


def test_a_wait_that_is_too_long_can_be_gone_on_with(ahead: Callable[..., Any]) -> None:
    slow = hw.FetchConfig(throttle=hw.Throttle(first_byte="300ms"))
    batches = iter(ahead(fetch=slow, batch_deadline=0.05))
    with pytest.raises(hw.DeadlineError):
        next(batches)
    while True:
        with contextlib.suppress(hw.DeadlineError):
            assert len(next(batches)["__key__"]) == 4
            return


def test_a_live_pass_is_refused_in_a_child(ahead: Callable[..., Any]) -> None:
    batches = iter(ahead())
    next(batches)

    def work() -> None:
        with pytest.raises(hw.ConfigError, match="belongs to process"):
            next(batches)
        batches.close()  # type: ignore[attr-defined]

    in_child(work)
    assert len(keys(batches)) == 12


def test_several_threads_share_a_pass(ahead: Callable[..., Any]) -> None:
    batches = iter(ahead())
    seen: list[list[str]] = []

    def work() -> None:
        while (batch := next(batches, None)) is not None:
            seen.append(list(batch["__key__"]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({key for batch in seen for key in batch}) == 50


def test_dropping_passes_leaves_no_thread_behind(ahead: Callable[..., Any]) -> None:
    made = ahead()
    next(iter(made))
    before = threading.active_count(), len(list(Path("/proc/self/task").iterdir()))
    for _ in range(50):
        next(iter(made))
    assert (threading.active_count(), len(list(Path("/proc/self/task").iterdir()))) <= before


def test_indices_of_a_pinned_batch_are_numbers(folder: Path, pinning: None) -> None:
    assert indices(loader(folder, pin_memory=True)) == indices(loader(folder))
