"""`StreamingDataset` in workers, forked and spawned processes, threads, and where a process ends."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Subset

import headwater as hw
from forks import in_child
from pairs import PAIRS, SAMPLES, check, open_pairs, read_all, write_pairs
from servers import testkit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("set"))


@pytest.fixture
def dataset(folder: Path) -> hw.StreamingDataset:
    return open_pairs(folder)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("method", ["fork", "spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_works_in_a_dataloader(dataset: hw.StreamingDataset, method: str, workers: int) -> None:
    if not workers and method != "fork":
        return
    read_all(dataset)
    loader = DataLoader(
        dataset,
        batch_size=7,
        shuffle=True,
        num_workers=workers,
        multiprocessing_context=method if workers else None,
        collate_fn=list,
    )
    for _ in range(2):
        seen = [sample for batch in loader for sample in batch]
        for sample in seen:
            check(sample, sample["__index__"])
        assert sorted(sample["__index__"] for sample in seen) == list(range(SAMPLES))


def test_default_collate_and_subset_work(dataset: hw.StreamingDataset) -> None:
    batch = next(iter(DataLoader(Subset(dataset, [3, 4, 5]), batch_size=3)))
    assert batch["latents"]["latents"].shape == (3, 4, 8)
    assert batch["__index__"].tolist() == [3, 4, 5]


def test_survives_a_fork_and_a_fork_of_the_fork(dataset: hw.StreamingDataset) -> None:
    read_all(dataset)

    def once_more() -> None:
        read_all(dataset)
        in_child(lambda: read_all(dataset))

    for _ in range(5):
        in_child(once_more)
    read_all(dataset)


def test_survives_a_fork_while_other_threads_read(dataset: hw.StreamingDataset) -> None:
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            read_all(dataset)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            in_child(lambda: read_all(dataset))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_tensors_of_the_parent_may_die_in_the_child(dataset: hw.StreamingDataset) -> None:
    kept = dataset[list(range(10))]

    def drop() -> None:
        check(kept[3], 3)
        kept.clear()
        read_all(dataset)

    in_child(drop)
    check(kept[3], 3)


def test_pickles_as_configuration_with_the_same_samples(dataset: hw.StreamingDataset, folder: Path) -> None:
    data = pickle.dumps(dataset)
    assert len(data) < 2000
    again = pickle.loads(data)
    assert again.order_fingerprint == dataset.order_fingerprint
    read_all(again)


def test_a_pickle_whose_samples_are_gone_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "home"))
    torch.save(1, tmp_path / "a.pt")
    torch.save(2, tmp_path / "b.pt")
    data = pickle.dumps(hw.StreamingDataset({"x": tmp_path}))
    (tmp_path / "b.pt").unlink()
    for manifest in (tmp_path / "home/manifests").iterdir():
        manifest.unlink()
    with pytest.raises(hw.ObjectChangedError, match="its samples are not the same any more"):
        pickle.loads(data)


def spawned(dataset: hw.StreamingDataset) -> None:
    read_all(dataset)


def test_a_spawned_process_gets_the_dataset_as_argument(dataset: hw.StreamingDataset) -> None:
    process = multiprocessing.get_context("spawn").Process(target=spawned, args=(dataset,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_many_threads_may_read_at_once(dataset: hw.StreamingDataset) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                read_all(dataset)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


HANGS = """
import socket, sys
import torch
import headwater as hw
server = socket.create_server(("127.0.0.1", 0))
endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
print("waiting", flush=True)
hw.StreamingDataset(hw.Source("s3://bucket/x", endpoint=endpoint, access_key_id="a", secret_access_key="b"))
"""


def test_ctrl_c_ends_a_wait_for_a_server_that_never_answers() -> None:
    process = subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert stderr.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode in (1, 130, -signal.SIGINT)


def test_leaving_the_interpreter_with_work_under_way_does_not_hang(folder: Path) -> None:
    code = f"""
import threading, headwater as hw
dataset = hw.StreamingDataset({str(folder)!r}, pairs={PAIRS!r})
kept = dataset[list(range(20))]
threading.Thread(target=lambda: [dataset[list(range(20))] for _ in range(10**6)], daemon=True).start()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_a_home_that_cannot_be_written_is_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HEADWATER_HOME", "/proc/headwater")
    with testkit.serving(folder) as server, caplog.at_level(logging.WARNING, "headwater"):
        source = hw.Source(server.uri("s3", ""), anonymous=True, **server.options("s3"))
        dataset = hw.StreamingDataset(source, pairs=PAIRS)
        assert len(pickle.loads(pickle.dumps(dataset))) == SAMPLES
    assert "every process will list again" in caplog.text
