"""Samples that cannot be read, as `on_error` says: under the loader and under torch's own."""

from __future__ import annotations

import bisect
import itertools
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import headwater as hw
from clips import SAMPLES, THROTTLE, check, indices, small, write_clips
from forks import in_child

BAD = (3, 4, 17, 29)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_clips(tmp_path_factory.mktemp("set"))
    for number in BAD:
        (root / f"b/{number:04}.pt").write_bytes(b"no tensor at all")
    return root


def opened(folder: Path, on_error: Any, **arguments: Any) -> hw.StreamingDataset:
    return hw.StreamingDataset(folder, on_error=on_error, **arguments)


def loader(folder: Path, on_error: Any, batch_size: int = 5, **arguments: Any) -> hw.StreamingDataLoader:
    return hw.StreamingDataLoader(opened(folder, on_error), batch_size, **{"shuffle": True, "seed": 5, **arguments})


def counted(dataset: hw.StreamingDataset) -> list[int | float]:
    return [dataset.stats()[f"{name}_total"] for name in ("sample_errors", "samples_skipped", "samples_substituted")]


def test_skipping_leaves_samples_out_and_says_so_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "headwater"):
        made = loader(folder, "skip")
        batches = list(made)
    for batch in batches:
        check(batch)
    assert len(batches) == len(made) == 10
    assert sorted(index for batch in indices(batches) for index in batch) == [n for n in range(SAMPLES) if n not in BAD]
    assert counted(made.dataset) == [4, 4, 0]
    [warning] = [record.message for record in caplog.records]
    assert "cannot read sample `00" in warning
    assert "leaving it out" in warning


@pytest.mark.parametrize("arguments", [{}, {"collate_fn": list}], ids=["stacked", "apart"])
def test_substitutes_are_the_same_in_every_run(folder: Path, arguments: Any) -> None:
    def walked() -> list[list[int]]:
        made = loader(folder, "substitute", **arguments)
        if arguments:
            return [[sample["__index__"] for sample in batch] for batch in made]
        return indices(made)

    first = walked()
    assert all(len(batch) == 5 for batch in first)
    assert not {index for batch in first for index in batch} & set(BAD)
    assert walked() == first == indices(loader(folder, "substitute"))


def test_a_function_decides_about_each(folder: Path) -> None:
    asked: list[tuple[str, Exception]] = []

    def decide(key: str, error: hw.HeadwaterError) -> Any:
        asked.append((key, error))
        assert threading.current_thread() is not threading.main_thread()
        return "substitute" if key == "0017" else "skip"

    made = loader(folder, decide)
    for batch in made:
        check(batch)
    assert sorted(key for key, _ in asked) == ["0003", "0004", "0017", "0029"]
    assert all(isinstance(error, hw.CorruptDataError) and f"b/{key}.pt" in str(error) for key, error in asked)
    assert counted(made.dataset) == [4, 3, 1]


def raising(key: str, error: hw.HeadwaterError) -> Any:
    raise ValueError(f"no {key}")


def repeating(key: str, error: hw.HeadwaterError) -> Any:
    raise ValueError(f"no {key}: {error}") from error


def raising_it(key: str, error: hw.HeadwaterError) -> Any:
    raise error


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (raising, ": on_error: cannot call `the function on_error`: it raised ValueError: no 0001"),
        (repeating, ": on_error: cannot call `the function on_error`: it raised ValueError: no 0001: this"),
        (lambda *_: "keep", "not 'keep'"),
        (lambda *_: "raise", ""),
        (raising_it, ""),
    ],
    ids=["raises", "repeats", "answers wrong", "raise", "raises what it is given"],
)
@pytest.mark.parametrize("missing", [False, True])
def test_a_function_that_does_not_decide_raises_the_samples_error_and_says_nothing_twice(
    tmp_path: Path, function: Any, words: str, missing: bool
) -> None:
    folder = small(tmp_path / "set", 3, bad=(1,))

    datasets = [opened(folder, on_error) for on_error in ("raise", function)]
    if missing:
        (folder / "a/0001.pt").unlink()

    def message(dataset: hw.StreamingDataset) -> str:
        kind = hw.NotFoundError if missing else hw.CorruptDataError
        with pytest.raises(kind, match=r"a/0001\.pt") as raised:
            list(hw.StreamingDataLoader(dataset, 3))
        return str(raised.value)

    plain, of_function = (message(dataset) for dataset in datasets)
    assert of_function.startswith(plain)
    rest = of_function.removeprefix(plain)
    assert rest == words if words != "not 'keep'" else rest.endswith(words)


def skip(key: str, _: hw.HeadwaterError) -> Any:
    return "skip"


@pytest.mark.slow
@pytest.mark.parametrize("on_error", ["skip", "substitute", skip], ids=["skip", "substitute", "function"])
@pytest.mark.parametrize(("workers", "context"), [(0, None), (2, "fork"), (1, "spawn")])
def test_batches_of_torchs_loader_are_spared_too(folder: Path, on_error: Any, workers: int, context: Any) -> None:
    dataset = opened(folder, on_error, fetch=THROTTLE)
    walked = torch.utils.data.DataLoader(dataset, 5, num_workers=workers, multiprocessing_context=context)
    for _ in range(2):
        seen = []
        for batch in walked:
            check(batch)
            seen += batch["__index__"].tolist()
        if on_error == "substitute":
            assert len(seen) == SAMPLES
        else:
            assert seen == [number for number in range(SAMPLES) if number not in BAD]


def test_what_is_asked_for_by_index_is_raised(folder: Path) -> None:
    dataset = opened(folder, "skip")
    for index in (3, [2, 3]):
        with pytest.raises(hw.CorruptDataError, match="asked for by index, for which on_error does not hold"):
            dataset[index]
    assert [sample["__index__"] for sample in dataset.__getitems__([2, 3])] == [2]
    with pytest.raises(hw.CorruptDataError) as raised:
        opened(folder, "raise")[3]
    assert "by index" not in str(raised.value), "nothing else was asked for"


class Concatenated(torch.utils.data.ConcatDataset[Any]):
    """Several datasets, each of which is asked for its part of a batch: what docs/datasets.md says to write."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        samples: list[Any] = []
        for at, group in itertools.groupby(indices, lambda index: bisect.bisect_right(self.cumulative_sizes, index)):
            before = self.cumulative_sizes[at - 1] if at else 0
            samples += self.datasets[at].__getitems__([index - before for index in group])
        return samples


def test_loaders_that_ask_by_index_raise_and_say_what_to_do(folder: Path) -> None:
    words = r"a DataLoader with a batch_size .* a ConcatDataset needs a __getitems__"
    plain = torch.utils.data.ConcatDataset([opened(folder, "skip"), opened(folder, "skip")])
    for walked in (
        torch.utils.data.DataLoader(opened(folder, "skip"), batch_size=None),
        torch.utils.data.DataLoader(plain, 5),
    ):
        with pytest.raises(hw.CorruptDataError, match=words):
            list(walked)


def test_a_concatenation_that_asks_each_dataset_for_its_part_is_spared(folder: Path) -> None:
    both = Concatenated([opened(folder, "skip"), opened(folder, "substitute")])
    seen = [batch["__index__"].tolist() for batch in torch.utils.data.DataLoader(both, 8)]
    good = [number for number in range(SAMPLES) if number not in BAD]
    flat = [index for batch in seen for index in batch]
    assert flat[: len(good)] == good
    assert len(flat[len(good) :]) == SAMPLES
    assert not set(flat) & set(BAD)


def test_a_function_decides_in_a_forked_child_too(folder: Path) -> None:
    made = loader(folder, skip)
    assert len(list(made)) == 10

    def work() -> None:
        made.set_epoch(0)
        assert sum(len(batch["__index__"]) for batch in made) == SAMPLES - 4

    in_child(work)


def test_nothing_else_is_understood(folder: Path) -> None:
    with pytest.raises(hw.ConfigError, match="give one of"):
        opened(folder, "ignore")


@pytest.mark.parametrize("under_torch", [False, True], ids=["own loader", "DataLoader"])
def test_with_replicas_only_what_nobody_can_decode_is_spared(tmp_path: Path, under_torch: bool) -> None:
    def walked(dataset: hw.StreamingDataset, replication: int) -> list[list[int]]:
        arguments: dict[str, Any] = {"rank": 0, "world_size": 2, "replication": replication}
        if not under_torch:
            return indices(hw.StreamingDataLoader(dataset, 4, **arguments))
        sampler = hw.Sampler(dataset, 4, **arguments)
        return indices(sampler.track(torch.utils.data.DataLoader(dataset, batch_sampler=sampler)))

    root = small(tmp_path / "set", 12, bad=(3,))
    # Nothing is cached: each reads for itself.
    made = [opened(root, "substitute", cache=hw.CacheConfig(memory=0)) for _ in range(2)]
    first = walked(made[0], 2)
    assert 3 not in {index for batch in first for index in batch}
    # Another replica may have read it before it went.
    (root / "a/0006.pt").unlink()
    with pytest.raises(hw.NotFoundError, match=r"0006\.pt.*other ranks that read the same samples may have got it"):
        walked(made[0], 2)
    assert len(walked(made[1], 1)) == 2


def test_many_failures_at_once_are_all_asked_about(tmp_path: Path) -> None:
    folder = small(tmp_path / "set", 200, bad=range(0, 200, 2))

    def decide(key: str, _: Any) -> Any:
        time.sleep(0.1)
        return "substitute"

    made = hw.StreamingDataLoader(hw.StreamingDataset(folder, on_error=decide), 1, window_samples=200)
    assert len(list(made)) == 200


@pytest.mark.parametrize(("mode", "batch_size"), [("skip", 1), ("skip", 16), ("substitute", 4)])
def test_whether_a_hundred_in_a_row_raise_is_the_same_in_every_run(tmp_path: Path, mode: Any, batch_size: int) -> None:
    folder = small(tmp_path / "set", 600, bad=range(100, 230))
    outcomes = set()
    for number in range(12):
        fetch = hw.FetchConfig(throttle=hw.Throttle(first_byte="2ms")) if number % 2 else None
        made = hw.StreamingDataLoader(hw.StreamingDataset(folder, on_error=mode, fetch=fetch), batch_size)
        try:
            list(made)
            outcomes.add("ended")
        except hw.CorruptDataError:
            outcomes.add("raised")
    assert len(outcomes) == 1


def test_a_function_nobody_answers_for_is_refused_in_a_file(tmp_path: Path) -> None:
    folder = small(tmp_path / "set", 4)
    (tmp_path / "headwater.toml").write_text(f'on_error = "ask:nobody"\n[fields]\na = "{folder}/a"\n')
    # Otherwise every bad sample waits for 30 s.
    with pytest.raises(hw.ConfigError):
        hw.open(tmp_path / "headwater.toml")
