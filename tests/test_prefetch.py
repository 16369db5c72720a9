"""`StreamingDataset.prefetch`: the queue of samples to fetch ahead."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

import headwater as hw
from clips import SAMPLES, check, write_clips
from forks import in_child
from waiting import until

SLOW = hw.FetchConfig(throttle=hw.Throttle(first_byte="20ms"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("set"))


def opened(folder: Path, **arguments: Any) -> hw.StreamingDataset:
    return hw.StreamingDataset(folder, **{"fetch": SLOW, **arguments})


def stat(dataset: hw.StreamingDataset, name: str) -> int | float:
    return dataset.stats()[name]


def fetched(dataset: hw.StreamingDataset, units: int) -> None:
    until(lambda: stat(dataset, "prefetch_fetched_total") == units, f"{units} objects are fetched")


def requests(dataset: hw.StreamingDataset) -> int | float:
    return stat(dataset, "source_requests_total")


@pytest.mark.parametrize("memory", [0, "5kB", "10MB"])
def test_a_queued_sample_is_there_when_asked_for_and_fetched_once(folder: Path, memory: Any) -> None:
    dataset = opened(folder, cache=hw.CacheConfig(memory=memory))
    assert dataset.prefetch(range(20)) == 20
    fetched(dataset, 40)
    assert requests(dataset) == 40
    for number in (3, [0, 1, 2], list(range(4, 20))):
        dataset[number]
    assert requests(dataset) == 40
    assert stat(dataset, "prefetch_used_total") == 40
    assert stat(dataset, "prefetch_bytes") == 0
    sample = dataset[30]
    assert sample["__key__"] == "0030"
    assert requests(dataset) == 42, "what was not queued is fetched on demand"


def test_keys_and_indices_are_queued_in_their_order(folder: Path) -> None:
    dataset = opened(folder, prefetch=hw.PrefetchConfig(memory=1))
    # So little memory holds one sample at a time, whatever its size.
    assert dataset.prefetch(["0007", 3, -1]) == 3
    for index in (7, 3, SAMPLES - 1):
        fetched(dataset, 2 * (1 + (7, 3, SAMPLES - 1).index(index)))
        before = requests(dataset)
        dataset[index]
        assert stat(dataset, "prefetch_used_total") == before
    with pytest.raises(hw.NotFoundError, match="none of the dataset's 50 samples has that key"):
        dataset.prefetch(["nobody"])
    with pytest.raises(hw.IndexOutOfRangeError):
        dataset.prefetch([0, SAMPLES])
    assert dataset.index_of("0007") == 7
    assert stat(dataset, "prefetch_queued_total") == 3


def test_a_cached_or_queued_sample_is_not_fetched_again(folder: Path) -> None:
    dataset = opened(folder, cache=hw.CacheConfig(memory="10MB"))
    dataset[[0, 1]]
    until(lambda: stat(dataset, "cache_memory_entries") == 4, "what was read is cached")
    assert dataset.prefetch([0, 1, 2, 2, 2]) == 5
    fetched(dataset, 2)
    dataset.prefetch([2])
    time.sleep(0.1)
    assert requests(dataset) == 6


def test_a_full_queue_drops_and_counts_and_never_waits(folder: Path) -> None:
    dataset = opened(
        folder, fetch=hw.FetchConfig(throttle=hw.Throttle(first_byte="30s")), prefetch=hw.PrefetchConfig(queue=4, memory=1)
    )
    taken = dataset.prefetch(range(SAMPLES))
    # One may be under way already.
    assert taken in (4, 5)
    assert stat(dataset, "prefetch_dropped_total") == SAMPLES - taken
    dataset.stop_prefetch()
    assert (stat(dataset, "prefetch_waiting"), stat(dataset, "prefetch_bytes")) == (0, 0)
    dataset.stop_prefetch()


def test_memory_is_bounded_and_goes_on_as_samples_are_read(folder: Path) -> None:
    dataset = opened(folder, prefetch=hw.PrefetchConfig(memory="20kB"))
    dataset.prefetch(range(SAMPLES))
    most = 0
    for number in range(SAMPLES):
        time.sleep(0.01)
        most = max(most, int(stat(dataset, "prefetch_bytes")))
        assert dataset[number]["__index__"] == number
    assert 0 < most <= 20_000
    assert requests(dataset) == 2 * SAMPLES


def test_one_that_fails_stops_no_other_and_is_raised_when_read(tmp_path: Path) -> None:
    folder = write_clips(tmp_path)
    (folder / "b/0003.pt").write_bytes(b"no tensor at all")
    dataset = opened(folder)
    dataset.prefetch(range(10))
    fetched(dataset, 19)
    assert stat(dataset, "prefetch_failed_total") == 1
    with pytest.raises(hw.CorruptDataError, match=r"b/0003\.pt"):
        dataset[3]
    assert dataset[4]["__index__"] == 4


def test_a_loader_takes_what_was_queued(folder: Path) -> None:
    dataset = opened(folder)
    dataset.prefetch(range(SAMPLES))
    fetched(dataset, 2 * SAMPLES)
    for batch in hw.StreamingDataLoader(dataset, 5):
        check(batch)
    assert requests(dataset) == 2 * SAMPLES


def test_it_has_no_thread_of_its_own_and_stops_and_starts_at_any_time(folder: Path) -> None:
    dataset = opened(folder)

    def threads(cycles: int) -> int:
        for _ in range(cycles):
            dataset.prefetch(range(SAMPLES))
            time.sleep(0.005)
            dataset.stop_prefetch()
        names = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir()]
        # Those that read for all come and go as they are needed.
        return sum("headwater-io" not in name for name in names)

    before = threads(20)
    assert threads(60) == before
    assert stat(dataset, "prefetch_bytes") == 0
    dataset.prefetch([5])
    assert dataset[5]["__index__"] == 5


def test_many_threads_queue_read_and_stop_at_once(folder: Path) -> None:
    dataset = opened(
        folder, fetch=None, cache=hw.CacheConfig(memory="50kB"), prefetch=hw.PrefetchConfig(queue=16, memory="30kB")
    )
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for step in range(60):
                number = (seed * 17 + step * 7) % SAMPLES
                dataset.prefetch(range(number, min(number + 5, SAMPLES)))
                assert dataset[number]["__index__"] == number
                if step % 20 == seed % 20:
                    dataset.stop_prefetch()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    dataset.stop_prefetch()
    assert stat(dataset, "prefetch_bytes") == 0


def test_a_forked_child_has_a_queue_of_its_own(folder: Path) -> None:
    dataset = opened(folder)
    dataset.prefetch(range(10))

    def work() -> None:
        assert stat(dataset, "prefetch_waiting") == 0
        dataset.prefetch([12])
        assert dataset[12]["__index__"] == 12
        assert dataset[0]["__index__"] == 0

    in_child(work)
    fetched(dataset, 20)


def test_what_was_read_meanwhile_is_not_fetched_again(folder: Path) -> None:
    fetch = hw.FetchConfig(throttle=hw.Throttle(first_byte="20ms"), hedge=0)
    dataset = hw.StreamingDataset(folder, fetch=fetch, prefetch=hw.PrefetchConfig(memory=1))
    dataset.prefetch(range(20))
    for number in range(19, 9, -1):
        dataset[number]
    for number in range(10):
        dataset[number]
    time.sleep(0.5)
    dataset.prefetch([])
    time.sleep(0.5)
    stats = dataset.stats()
    assert stats["source_requests_total"] == 40
    assert stats["prefetch_bytes"] == 0


def test_one_key_is_not_a_list_of_letters(folder: Path) -> None:
    dataset = hw.StreamingDataset(folder)
    with pytest.raises(hw.ConfigError, match="give a list of keys"):
        dataset.prefetch("0003")


def test_a_sample_that_fails_leaves_nothing_held(tmp_path: Path) -> None:
    folder = write_clips(tmp_path)
    (folder / "a/0003.pt").write_bytes(b"no tensor at all")
    dataset = hw.StreamingDataset(folder)
    dataset.prefetch([3])
    ends = time.monotonic() + 10
    while dataset.stats()["prefetch_fetched_total"] + dataset.stats()["prefetch_failed_total"] < 2 and time.monotonic() < ends:
        time.sleep(0.01)
    with pytest.raises(hw.CorruptDataError):
        dataset[3]
    assert dataset.stats()["prefetch_bytes"] == 0
