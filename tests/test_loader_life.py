"""How `StreamingDataLoader` lives and dies: leaving, closing, forks, memory, signals."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard

import headwater as hw
from clips import SAMPLES, THROTTLE, check, closed_while_two_wait, indices, loader, value, write_clips


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("set"))


def test_leaving_early_begins_the_next_epoch(folder: Path) -> None:
    made, other = loader(folder), loader(folder)
    first = indices(other)
    for batch in made:
        assert batch["__index__"].tolist() == first[0]
        break
    assert indices(made) == indices(other)


def test_a_pass_that_handed_out_nothing_is_begun_again(folder: Path) -> None:
    # As Lightning does, which tries whether a loader can be iterated.
    first, second = indices(other := loader(folder)), indices(other)
    made = loader(folder)
    iter(made)
    iter(made)
    assert indices(made) == first
    iter(made)
    iter(made)
    assert indices(made) == second
    resumed = loader(folder)
    batches = iter(resumed)
    assert [next(batches)["__index__"].tolist() for _ in range(3)] == first[:3]
    resumed.load_state_dict(resumed.state_dict())
    iter(resumed)
    assert indices(resumed) == first[3:]
    iter(resumed)
    resumed.set_epoch(0)
    assert indices(resumed) == first


@pytest.mark.parametrize("placed", [{}, {"device": "meta"}])
def test_a_pass_that_handed_out_nothing_follows_what_is_chosen(folder: Path, placed: dict[str, str]) -> None:
    def keys(batches: Iterable[Any]) -> list[list[str]]:
        return [list(batch["__key__"]) for batch in batches]

    epochs = [keys(other) for other in [loader(folder)] for _ in range(3)]
    made = loader(folder, **placed)
    batches = iter(made)
    made.set_epoch(2)
    assert keys(batches) == epochs[2]
    # As Lightning goes on: it restores, takes an iterator, and then tells the epoch, through the sampler that it looks for.
    state = {**made.state_dict(), "epoch": 1, "position": 8}
    for place, epoch, expected in [(8, 1, epochs[1][2:]), (50, 1, []), (50, 2, epochs[2]), (8, 2, epochs[2])]:
        made.load_state_dict({**state, "position": place})
        batches = iter(made)
        made.batch_sampler.sampler.set_epoch(epoch)
        assert keys(batches) == expected
    batches = iter(made)
    made.load_state_dict(state)
    assert [list(next(batches)["__key__"])] == epochs[1][2:3]
    made.set_epoch(0)
    assert keys(batches) == epochs[1][3:], "what has begun goes on"
    assert keys(made) == epochs[0]


def test_a_loader_made_before_its_process_had_a_rank_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    early, given = loader(folder), loader(folder, rank=0, world_size=1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(hw.ConfigError, match="made as rank 0 of 1, and this is rank 1 of 2"):
        iter(early)
    assert len(indices(given)) == 13
    assert len(indices(loader(folder))) == 7


def test_several_passes_and_loaders_at_once(folder: Path) -> None:
    made = [loader(folder, size, cache=hw.CacheConfig(memory="1MB")) for size in (2, 3, 5)]
    passes = [iter(one) for one in made for _ in range(2)]
    left = set(range(len(passes)))
    while left:
        for number in sorted(left):
            batch = next(passes[number], None)
            if batch is None:
                left.discard(number)
            else:
                check(batch)


def test_a_loader_may_be_read_from_several_threads(folder: Path) -> None:
    batches = iter(loader(folder))
    seen: list[int] = []

    def work() -> None:
        while (batch := next(batches, None)) is not None:
            check(batch)
            seen.extend(batch["__index__"].tolist())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(seen) == list(range(SAMPLES))


def test_closing_ends_passes_and_the_loader_can_be_used_again(folder: Path) -> None:
    with loader(folder) as made:
        batches = iter(made)
        next(batches)
    assert next(batches, None) is None
    assert len(indices(made)) == 13


def test_closing_ends_a_wait_of_another_thread(folder: Path) -> None:
    made = loader(folder, fetch=hw.FetchConfig(throttle=hw.Throttle(first_byte="1h")))
    assert closed_while_two_wait(made) == [None, None]


def test_loaders_of_one_dataset_share_its_cache_and_the_largest_share_holds(folder: Path) -> None:
    dataset = hw.StreamingDataset(folder)
    capacity = "cache_memory_capacity_bytes"
    small = hw.StreamingDataLoader(dataset, 2, memory_budget="200kB")
    indices(small)
    alone = small.stats()[capacity]
    assert 0 < alone < 200_000
    large = hw.StreamingDataLoader(dataset, 2, memory_budget="100MB")
    indices(large)
    assert small.stats()[capacity] > 50_000_000
    del large
    gc.collect()
    # A worker may still be letting go of the last unit it packed.
    ends = time.monotonic() + 10
    while small.stats()[capacity] != alone and time.monotonic() < ends:
        time.sleep(0.01)
    assert small.stats()[capacity] == alone


def test_pads_are_marked_in_samples_too(folder: Path) -> None:
    last = [list(loader(folder, 16, collate_fn=list, rank=rank, world_size=3))[-1] for rank in range(3)]
    assert [[sample["__pad__"] for sample in batch] for batch in last] == [[False], [False], [True]]


def test_loaders_and_samplers_say_what_to_do_instead_of_pickling_them(folder: Path) -> None:
    dataset = hw.StreamingDataset(folder)
    for made in (hw.StreamingDataLoader(dataset, 4), hw.Sampler(dataset, 4)):
        with pytest.raises(TypeError, match="make one in each process, of a dataset, which does"):
            pickle.dumps(made)


def test_arguments_that_cannot_be_meant_are_refused_in_words(folder: Path) -> None:
    with pytest.raises(hw.ConfigError, match=r"collate='samples': give one of \('stack', 'list', 'pad'\)"):
        loader(folder, collate="samples")
    with pytest.raises(hw.ConfigError, match="cannot prefetch a bytes"):
        hw.StreamingDataset(folder).prefetch(b"0003")  # type: ignore[arg-type] # what a type checker would see, too
    assert len(list(loader(folder, watchdog=None))) == 13


def test_the_state_of_another_seed_is_refused_also_where_nothing_is_shuffled(folder: Path) -> None:
    state = loader(folder, shuffle=False, seed=1).state_dict()
    with pytest.raises(hw.ConfigError, match="seed is 1 in the state and 2 here"):
        loader(folder, shuffle=False, seed=2).load_state_dict(state)


def test_numbers_may_be_numpys(folder: Path) -> None:
    made = loader(folder, np.int64(4), seed=np.int64(5), shuffle=np.bool_(True))
    state = {name: np.int64(value) if isinstance(value, int) else value for name, value in made.state_dict().items()}
    state["shuffle"] = np.bool_(True)
    made.load_state_dict(state)
    assert indices(made) == indices(loader(folder))


def test_the_last_epoch_there_is_ends_like_any_other(folder: Path) -> None:
    made = loader(folder)
    made.load_state_dict({**made.state_dict(), "epoch": 2**64 - 1})
    assert len(indices(made)) == 13
    for wrong in (-1, 2**63):
        with pytest.raises(hw.ConfigError, match="epochs count from 0"):
            made.set_epoch(wrong)


def test_an_exception_in_the_loop_leaves_nothing_behind(folder: Path) -> None:
    made = loader(folder)

    def train() -> None:
        for _ in made:
            raise ZeroDivisionError

    for _ in range(20):
        with pytest.raises(ZeroDivisionError):
            train()
    check(next(iter(made)))


def test_a_list_of_everything_does_not_hang(folder: Path) -> None:
    # Far more than the window and the pool may hold.
    made = loader(folder, 2, window_samples=2, memory_budget="1MB")
    batches = [batch for _ in range(10) for batch in made]
    assert len(batches) == 250
    for batch in batches:
        check(batch)


def test_tensors_outlive_loader_and_dataset(folder: Path) -> None:
    made = loader(folder)
    kept = [next(batches) for batches in [iter(made)] for _ in range(3)]
    del made
    gc.collect()
    for batch in kept:
        check(batch)


def counts() -> tuple[int, int, int]:
    """Threads, descriptors and resident pages of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), pages  # noqa: PTH208 - the fastest way


@pytest.mark.slow
def test_ten_thousand_loaders_leak_no_thread_descriptor_or_byte(folder: Path) -> None:
    dataset = hw.StreamingDataset(folder)

    def cycles(count: int) -> None:
        for number in range(count):
            made = hw.StreamingDataLoader(dataset, 4, shuffle=True, seed=number, num_threads=1 if number % 100 == 0 else None)
            for batch in made:
                assert len(batch["b"]) == 4
                break
            del made, batch

    def settled() -> tuple[int, int, int]:
        gc.collect()
        time.sleep(0.5)
        return counts()

    cycles(2_000)
    before = settled()
    cycles(10_000)
    after = settled()
    assert after[0] <= before[0]
    assert after[1] <= before[1]
    assert (after[2] - before[2]) * 4096 < 8 << 20, "grew by over 8 MB"


MEMORY = """
import sys, torch
import headwater as hw
folder, budget = sys.argv[1], int(sys.argv[2])
def resident():
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["VmHWM"].split()[0]) * 1024
dataset = hw.StreamingDataset(folder)
dataset[0]  # threads and whatever a first read brings
before = resident()
loader = hw.StreamingDataLoader(dataset, 4, shuffle=True, drop_last=True, memory_budget=budget)
most = 0
for epoch in range(20):
    # What waits to be packed while the machine is busy is kept in a later epoch.
    if epoch >= 3 and loader.stats()["cache_memory_bytes"] > 0.3 * budget:
        break
    for batch in loader:
        most = max(most, sum(t.numel() * t.element_size() for t in (batch["x"],)))
        del batch
print(resident() - before - most, loader.stats()["cache_memory_bytes"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("compressed", [False, True])
def test_memory_stays_within_its_budget(compressed: bool, tmp_path: Path) -> None:
    for number in range(60):
        path = tmp_path / f"{number:03}.pt"
        # Half of it zeros, so that it unpacks to about twice its size.
        torch.save({"x": torch.cat([torch.randn(1 << 19), torch.zeros(1 << 19)])}, path)
        if compressed:
            (tmp_path / f"{path.name}.zst").write_bytes(zstandard.compress(path.read_bytes()))
            path.unlink()
    budget = 150_000_000
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), str(budget)], capture_output=True, text=True, timeout=120, check=True
    )
    grown, cached = map(int, done.stdout.split())
    assert cached > (0.05 if compressed else 0.3) * budget, "the budget is used"
    # The one batch that the user holds is not in it: subtracted above.
    assert grown <= 1.05 * budget, f"{grown / 1e6:.0f} MB"


def test_too_small_a_budget_is_refused_with_the_number_needed(folder: Path) -> None:
    with pytest.raises(hw.ConfigError, match=r"memory_budget = 100 B.*at least .* are needed"):
        loader(folder, memory_budget=100)


def script(body: str, folder: Path) -> list[str]:
    slow = "fetch=hw.FetchConfig(throttle=hw.Throttle(first_byte='1h'))"
    head = f"import headwater as hw, sys, time\ndataset = hw.StreamingDataset({str(folder)!r}, {slow})\n"
    return [sys.executable, "-c", head + body]


def test_ctrl_c_ends_a_wait_within_a_second(folder: Path) -> None:
    code = "print('waiting', flush=True)\nfor batch in hw.StreamingDataLoader(dataset, 4): pass\n"
    process = subprocess.Popen(script(code, folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert stderr.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("how", ["", "del batches", "raise ValueError", "sys.exit(3)", "loader.close()"])
def test_leaving_the_interpreter_with_batches_under_way_does_not_hang(folder: Path, how: str) -> None:
    code = f"loader = hw.StreamingDataLoader(dataset, 4)\nbatches = iter(loader)\ntime.sleep(0.05)\n{how}\n"
    done = subprocess.run(script(code, folder), timeout=30, check=False, capture_output=True)
    assert done.returncode == {"raise ValueError": 1, "sys.exit(3)": 3}.get(how, 0)


DAEMONS = """
import logging, sys, threading, time
import headwater as hw
folder, what = sys.argv[1:]
never = hw.FetchConfig(throttle=hw.Throttle(first_byte="1h"), hedge=0)
logging.getLogger("headwater").setLevel("ERROR")
def made(**arguments):
    collate = list if what == "transform" else None
    return hw.StreamingDataLoader(hw.StreamingDataset(folder, framework="numpy", **arguments), 4, collate_fn=collate)
loader = made(fetch=never) if what == "waits" else made()
def work():
    while True:
        if what == "samples":
            loader.dataset[3]
        else:
            for batch in loader:
                pass
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
"""


@pytest.mark.parametrize("what", ["batches", "transform", "samples", "waits"])
def test_the_process_ends_in_peace_while_daemon_threads_are_in_a_loader(folder: Path, what: str) -> None:
    for _ in range(8):
        command = [sys.executable, "-c", DAEMONS, str(folder), what]
        done = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_batch_that_takes_too_long_says_what_it_waited_for(folder: Path) -> None:
    slow = hw.FetchConfig(throttle=hw.Throttle(first_byte="1h"))
    made = loader(folder, fetch=slow, batch_deadline=0.05, shuffle=False)
    with pytest.raises(hw.DeadlineError, match=r"waiting for `.*/a/0000\.pt` for .* and for 7 other objects"):
        next(iter(made))


def test_a_damaged_object_is_named_and_the_batches_before_it_arrive(folder: Path, tmp_path: Path) -> None:
    for number in range(6):
        torch.save(value(number), tmp_path / f"{number}.pt")
    (tmp_path / "4.pt").write_bytes(b"damage")
    batches = iter(loader(tmp_path, 2, shuffle=False))
    assert len(list(zip(range(2), batches, strict=False))) == 2
    with pytest.raises(hw.CorruptDataError, match=r"4\.pt"):
        next(batches)
    assert next(batches, None) is None


@pytest.mark.parametrize("functions", [{}, {"collate_fn": list}], ids=["none", "collate_fn"])
def test_a_read_past_its_deadline_ends_the_pass_and_leaves_no_batch_out(folder: Path, functions: dict[str, Any]) -> None:
    slow = hw.FetchConfig(throttle=hw.Throttle(first_byte="1h"), deadline="200ms", retries=0, hedge=0)
    made = loader(folder, fetch=slow, **functions)
    batches = iter(made)
    with pytest.raises(hw.DeadlineError, match=r"\.pt"):
        next(batches)
    assert next(batches, None) is None, "the batch is not to come any more, and none may come in its place"
    assert made.state_dict()["position"] == 0


def test_an_exhausted_iterator_stays_exhausted(folder: Path) -> None:
    made = loader(folder)
    batches = iter(made)
    assert len(list(batches)) == len(made)
    made.set_epoch(3)
    assert next(batches, None) is None


def test_an_exhausted_iterator_does_not_read_for_nobody(folder: Path) -> None:
    made = loader(folder, fetch=THROTTLE, cache=hw.CacheConfig(memory=0))
    batches = iter(made)
    list(batches)
    before = made.stats()["source_requests_total"]
    made.set_epoch(3)
    time.sleep(0.5)
    assert made.stats()["source_requests_total"] == before
    del batches


def test_a_placed_pass_that_failed_to_hand_out_follows_set_epoch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import headwater.ahead as ahead

    real = ahead._Taken.hand_over

    def out_of_memory(self: Any, waited: float) -> Any:
        raise RuntimeError("out of memory")

    made, other = loader(folder, device="meta"), loader(folder)
    batches = iter(made)
    with monkeypatch.context() as patch:
        patch.setattr(ahead._Taken, "hand_over", out_of_memory)
        with pytest.raises(RuntimeError):
            next(batches)
    assert ahead._Taken.hand_over is real
    made.set_epoch(3)
    other.set_epoch(3)
    assert list(next(batches)["__key__"]) == list(next(iter(other))["__key__"]), "a batch of epoch 0 came"


def test_what_is_cut_down_is_said_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "headwater"):
        for _ in range(3):
            dataset = hw.StreamingDataset(folder, cache=hw.CacheConfig(memory="900TB"))
            hw.StreamingDataLoader(dataset, 4, memory_budget="900TB")
    said = [record.message.partition(" is more")[0] for record in caplog.records]
    assert len(said) == len(set(said))
