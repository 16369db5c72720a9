"""`StreamingDataLoader` as its users see it."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headwater as hw
from clips import SAMPLES, THROTTLE, check, indices, loader, value, write_clips
from forks import in_child
from same import assert_same


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("set"))


# ---- what is in a batch


def test_a_batch_is_what_default_collate_makes(folder: Path) -> None:
    made = loader(folder, shuffle=False)
    expected = torch.utils.data.default_collate([made.dataset[number] for number in range(4)])
    batch = next(iter(made))
    assert batch.pop("__pad__").tolist() == [False] * 4
    assert list(batch.pop("__key__")) == expected.pop("__key__")
    assert_same(batch, expected)


def test_keys_are_a_sequence(folder: Path) -> None:
    keys = next(iter(loader(folder, shuffle=False)))["__key__"]
    assert (len(keys), keys[0], keys[-1]) == (4, "0000", "0003")
    assert keys == ["0000", "0001", "0002", "0003"]
    assert keys != ["0000"]
    assert "0002" in keys
    assert repr(keys) == "['0000', '0001', '0002', '0003']"
    assert pickle.loads(pickle.dumps(keys)) == list(keys)
    with pytest.raises(IndexError):
        keys[4]


@pytest.fixture
def ragged(tmp_path: Path) -> Path:
    for number in range(4):
        torch.save({"x": torch.full((number + 1, 2), 1.5)}, tmp_path / f"{number}.pt")
    return tmp_path


def test_shapes_that_differ_are_refused_in_words(ragged: Path) -> None:
    with pytest.raises(hw.ConfigError, match=r"cannot collate `data\.x`: sample `1` has float32\[2, 2\].*collate=\"pad\""):
        next(iter(loader(ragged, 2, shuffle=False)))


def test_padding_comes_with_a_mask_that_broadcasts(ragged: Path) -> None:
    batch = next(iter(loader(ragged, 4, shuffle=False, collate="pad")))
    assert batch["x"].shape == (4, 4, 2)
    assert batch["x__mask"].shape == (4, 4, 1)
    assert_same(batch["x"], torch.where(batch["x__mask"], 1.5, 0.0).expand(4, 4, 2).contiguous())
    assert batch["x__mask"].sum().item() == 1 + 2 + 3 + 4


def test_a_list_keeps_tensors_apart(ragged: Path) -> None:
    batch = next(iter(loader(ragged, 4, shuffle=False, collate="list")))
    assert [tensor.shape[0] for tensor in batch["x"]] == [1, 2, 3, 4]


def test_collate_fn_gets_the_samples(folder: Path) -> None:
    made = loader(folder, 3, shuffle=False, collate_fn=lambda samples: [sample["__index__"] for sample in samples])
    assert next(iter(made)) == [0, 1, 2]


def test_a_transform_changes_samples_before_they_are_put_together(folder: Path) -> None:
    dataset = hw.StreamingDataset(folder, transform=lambda sample: {"y": sample["b"] * 2, "key": sample["__key__"]})
    batch = next(iter(hw.StreamingDataLoader(dataset, 3)))
    assert_same(batch["y"], torch.tensor([[0] * 5, [2] * 5, [4] * 5], dtype=torch.int16))
    assert batch["key"] == ["0000", "0001", "0002"]


def test_numpy_batches_without_torch(folder: Path) -> None:
    made = hw.StreamingDataLoader(hw.StreamingDataset(folder, framework="numpy"), 3)
    batch = next(iter(made))
    assert isinstance(batch["a"]["x"], np.ndarray)
    np.testing.assert_array_equal(batch["b"], np.repeat(np.arange(3, dtype=np.int16)[:, None], 5, axis=1))
    assert batch["__index__"].tolist() == [0, 1, 2]


def test_batches_are_the_users_own(folder: Path) -> None:
    made = loader(folder, shuffle=False, cache=hw.CacheConfig(memory="1MB"))
    for _ in range(3):
        for batch in made:
            check(batch)
            batch["a"]["x"].fill_(-1)
            batch["b"].zero_()


# ---- order


def test_the_same_batches_in_a_child_whose_parent_used_the_loader(folder: Path) -> None:
    made = loader(folder, cache=hw.CacheConfig(memory="10MB"))
    first = indices(made)
    under_way = iter(made)
    next(under_way)

    def work() -> None:
        made.set_epoch(0)
        assert indices(made) == first
        for batch in made:
            check(batch)
        with pytest.raises(hw.ConfigError, match=f"belongs to process {parent}"):
            next(under_way)

    parent = os.getpid()
    for _ in range(3):
        in_child(work)
    check(next(under_way))
    made.set_epoch(0)
    assert indices(made) == first


def test_epochs_are_the_same_for_all_loaders_and_differ_from_each_other(folder: Path) -> None:
    one, other = loader(folder), loader(folder)
    epochs = [indices(one) for _ in range(3)]
    other.set_epoch(2)
    assert indices(other) == epochs[2]
    assert len({json.dumps(epoch) for epoch in epochs}) == 3
    assert len(one) == len(epochs[0]) == 13


def test_ranks_share_an_epoch_in_equal_steps(folder: Path) -> None:
    whole = [index for batch in indices(loader(folder, 6)) for index in batch]
    ranks = [list(loader(folder, 2, rank=rank, world_size=3)) for rank in range(3)]
    assert {len(batches) for batches in ranks} == {9}
    together = [
        index
        for step in zip(*ranks, strict=True)
        for batch in step
        for index, pad in zip(batch["__index__"].tolist(), batch["__pad__"].tolist(), strict=True)
        if not pad
    ]
    assert together == whole


def test_rank_comes_from_the_launcher(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert indices(loader(folder, 4)) == indices(loader(folder, 4, rank=1, world_size=2))
    with pytest.raises(hw.ConfigError, match="both rank and world_size"):
        loader(folder, rank=0)


# ---- resuming


def test_a_state_is_small_plain_and_checked(folder: Path, tmp_path: Path) -> None:
    made = loader(folder)
    batches = iter(made)
    next(batches)
    state = json.loads(json.dumps(made.state_dict()))
    assert (state["version"], state["epoch"], state["position"], state["seed"]) == (1, 0, 4, 5)
    with pytest.raises(hw.ConfigError, match="seed is 5 in the state and 6 here"):
        loader(folder, seed=6).load_state_dict(state)
    torch.save(value(0), tmp_path / "0.pt")
    with pytest.raises(hw.ConfigError, match="number of samples is 50 in the state and 1 here"):
        loader(tmp_path, 1).load_state_dict(state)
    with pytest.raises(hw.ConfigError, match="not what state_dict"):
        made.load_state_dict({"epoch": 0})
    with pytest.raises(hw.UnsupportedError, match="version 9"):
        made.load_state_dict({**state, "version": 9})
    assert made.state_dict() == state, "a refused state changes nothing"


def test_objects_replaced_since_the_state_was_saved_are_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4):
        torch.save(value(number), tmp_path / f"{number}.pt")
    state = loader(tmp_path).state_dict()
    os.utime(tmp_path / "2.pt", ns=(1, 1))
    with pytest.raises(hw.ObjectChangedError, match="reload"):
        loader(tmp_path).load_state_dict(state)
    dataset = hw.StreamingDataset(tmp_path, on_changed="reload")
    with caplog.at_level(logging.WARNING, "headwater"):
        made = hw.StreamingDataLoader(dataset, 4, shuffle=True, seed=5)
        made.load_state_dict(state)
        next(iter(made))
    assert "were replaced since it was saved" in caplog.text


RUN = """
import json, os, sys
import headwater as hw
folder, state_path, kill_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
loader = hw.StreamingDataLoader(hw.StreamingDataset(folder, framework="numpy"), 3, shuffle=True, seed=5)
if os.path.exists(state_path):
    with open(state_path) as file:
        loader.load_state_dict(json.load(file))
steps = 0
while loader.state_dict()["epoch"] < 2:
    for batch in loader:
        print(json.dumps(batch["__index__"].tolist()), flush=True)
        with open(state_path + ".new", "w") as file:
            json.dump(loader.state_dict(), file)
        os.replace(state_path + ".new", state_path)
        steps += 1
        if steps == kill_at:
            os.kill(os.getpid(), 9)
"""


def run_until_killed(folder: Path, state: Path, kill_at: int) -> tuple[list[list[int]], int]:
    command = [sys.executable, "-c", RUN, str(folder), str(state), str(kill_at)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.returncode


@pytest.mark.slow
def test_killed_at_every_seventh_step_and_resumed_equals_the_undisturbed_run(folder: Path, tmp_path: Path) -> None:
    whole, code = run_until_killed(folder, tmp_path / "whole.json", 0)
    assert code == 0
    assert len(whole) == 2 * 17
    pieces: list[list[int]] = []
    # A resume of a resume of a resume; one of them begins right at the end of an epoch.
    for kill_at in (7, 7, 3, 7, 7, 0):
        steps, code = run_until_killed(folder, tmp_path / "state.json", kill_at)
        pieces += steps
    assert code == 0
    assert pieces == whole


def test_a_state_saved_at_the_last_step_resumes_after_it(folder: Path) -> None:
    made = loader(folder)
    for _ in made:
        at_the_last = made.state_dict()
    after = made.state_dict()
    assert (at_the_last["epoch"], at_the_last["position"]) == (0, 50)
    assert (after["epoch"], after["position"]) == (1, 0)
    second = indices(made)
    # As training loops do: set_epoch at the beginning of every epoch, also of the one that was being run.
    resumed = loader(folder)
    resumed.load_state_dict(at_the_last)
    resumed.set_epoch(0)
    assert indices(resumed) == []
    resumed.set_epoch(1)
    assert indices(resumed) == second
    resumed = loader(folder)
    resumed.load_state_dict(after)
    resumed.set_epoch(1)
    assert indices(resumed) == second


# ---- figures and configuration


def stats_of(made: hw.StreamingDataLoader, *names: str) -> list[float]:
    stats = made.stats()
    return [stats[name] for name in names]


def test_stats_tell_ready_and_reuse_apart(folder: Path) -> None:
    made = loader(folder, 5, fetch=THROTTLE, cache=hw.CacheConfig(memory="10MB"))
    names = ("loader_units_asked_total", "loader_units_reused_total", "source_requests_total")
    for batch in made:
        time.sleep(0.005)
        check(batch)
    assert stats_of(made, *names) == [100, 0, 100]
    [ready] = stats_of(made, "loader_units_ready_total")
    assert ready >= 80, "the first batch is waited for, the others are there"
    deadline = time.monotonic() + 10
    while stats_of(made, "cache_memory_entries") != [100] and time.monotonic() < deadline:
        time.sleep(0.01)
    indices(made)
    assert stats_of(made, *names) == [200, 100, 100]
    [wait, stall] = stats_of(made, "loader_wait_seconds_p99", "loader_stall_source_seconds_total")
    assert wait > 0
    assert stall > 0
    made.dataset.reset_metrics()
    assert stats_of(made, *names, "cache_hits_total", "cache_memory_entries") == [0, 0, 0, 0, 100]
    made.dataset.clear_cache()
    assert stats_of(made, "cache_memory_entries", "cache_memory_bytes") == [0, 0]


def test_capacity_and_policy_hold(folder: Path) -> None:
    def reuse(policy: Any) -> float:
        cache = hw.CacheConfig(memory=52 * 5000, policy=policy)
        # A window that holds most of the set would find all units before any of them gives way.
        made = loader(folder, 5, cache=cache, num_threads=1, window_samples=20)
        for _ in range(6):
            for batch in made:
                time.sleep(0.001)
                check(batch)
        stats = made.stats()
        assert 0 < stats["cache_memory_bytes"] <= 52 * 5000
        return float(stats["loader_units_reused_total"] / (stats["loader_units_asked_total"] - 100))

    # A little over half of the hundred units fit.
    keep = reuse("keep")
    assert 0.5 < keep < 0.6
    assert reuse("auto") == keep
    assert reuse("lru") < 0.8 * keep


TOML = """
[fields]
a = "a"
b = "b"

[cache]
memory = "1MB"

[loader]
batch_size = 5
shuffle = true
seed = 5
"""


def test_open_gives_a_loader_as_the_file_says(folder: Path) -> None:
    (folder / "headwater.toml").write_text(TOML)
    try:
        made = hw.open(folder / "headwater.toml")
    finally:
        (folder / "headwater.toml").unlink()
    assert len(made) == 10
    assert indices(made) == indices(loader(folder, 5))
    assert "10 batches of 5" in repr(made)


def test_open_gives_each_rank_its_own_unless_the_file_names_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "headwater.toml"
    monkeypatch.setenv("WORLD_SIZE", "2")
    walked = []
    try:
        for rank in ("0", "1"):
            monkeypatch.setenv("RANK", rank)
            file.write_text(TOML)
            walked.append(indices(hw.open(file)))
            file.write_text(TOML + "rank = 2\nworld_size = 3\n")
            assert indices(hw.open(file)) == indices(loader(folder, 5, rank=2, world_size=3))
    finally:
        file.unlink()
    assert walked == [indices(loader(folder, 5, rank=rank, world_size=2)) for rank in (0, 1)]
    assert walked[0] != walked[1]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 0}, "a batch holds at least one sample"),
    ({"batch_size": 60, "drop_last": True}, "make no full batch of 60"),
    ({"num_threads": 0}, "num_threads"),
    ({"num_threads": 100_000}, "more than 1024 cannot be meant"),
    ({"collate_fn": 3}, "give a callable"),
    ({"seed": [1]}, "cannot use `seed`: a `list` is no setting"),
    ({"window_samples": 0}, "window_samples"),
    ({"window_bytes": "1 parsec"}, "write it like 8GB"),
    ({"memory_budget": -1}, "not negative"),
    ({"rank": 3, "world_size": 2}, "must be below world_size"),
    ({"collate": "stapel"}, "stack"),
    ({"collate": "pad", "collate_fn": list}, "goes with neither"),
    ({"batch_deadline": "soon"}, "write it like 90s"),
]


def test_a_batch_larger_than_anything_is_the_whole_dataset(folder: Path) -> None:
    assert len(next(iter(loader(folder, 2**62)))["b"]) == SAMPLES


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[words for _, words in BAD])
def test_arguments_that_cannot_be_meant_are_refused_in_words(folder: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(hw.ConfigError, match=words):
        loader(folder, **arguments)
    with pytest.raises(hw.ConfigError, match=r"headwater\.StreamingDataset"):
        hw.StreamingDataLoader([1, 2, 3])  # type: ignore[arg-type]


def test_an_emulated_remote_is_announced(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "headwater"):
        hw.StreamingDataset(folder, fetch=hw.FetchConfig(throttle=hw.Throttle(first_byte="30ms", stream_rate="100MB")))
    assert "through an emulated remote: 30 ms to the first byte, 100 MB/s per stream" in caplog.text
