"""What processes fetch for each other through a disk cache, whatever becomes of the one that fetches."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from numbered import SAMPLES, opened, read_all, served
from servers import testkit
from waiting import until

OPENED = """
import os, sys, threading, time
import headwater as hw
source = hw.Source(sys.argv[1], endpoint=sys.argv[2], region=sys.argv[3], access_key_id="any", secret_access_key="any")
dataset = hw.StreamingDataset({"x": source}, cache=hw.CacheConfig(memory=0, disk=sys.argv[4], disk_capacity="1GB"))
"""
READS = OPENED + "print(sum(dataset[index]['x']['n'] for index in range(len(dataset))), flush=True); os.read(0, 1)"
ASKS_FOR_MANY = OPENED + "dataset[list(range(12))]"
FORKS = (
    OPENED
    + """
threading.Thread(target=lambda: dataset[[0, 1]], daemon=True).start()
os.read(0, 1)
if os.fork() == 0:
    print("forked", flush=True)
    os.read(0, 1)
    print(dataset[1]["x"]["n"], dataset.stats()["cache_disk_waits_total"], flush=True)
    os._exit(0)
time.sleep(3600)
"""
)


@pytest.fixture
def server(tmp_path: Path, fault_servers: Callable[[Path], testkit.Testkit]) -> testkit.Testkit:
    return served(tmp_path / "data", fault_servers)


@contextlib.contextmanager
def running(script: str, server: testkit.Testkit, folder: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = [server.uri("s3", "x"), server.endpoint, server.region, str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def told(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("x")
    process.stdin.flush()


def test_processes_go_on_without_one_that_is_stopped_and_what_it_leaves_when_it_is_killed_is_whole(
    server: testkit.Testkit, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    server.fault("stall=1h,on=get")
    with running(ASKS_FOR_MANY, server, cache) as owner:
        until(lambda: server.stats()["get"] >= 12, "it asks")
        owner.send_signal(signal.SIGSTOP)
        server.clear()
        with running(READS, server, cache) as one, running(READS, server, cache) as other:
            assert [heard(one), heard(other)] == [str(sum(range(SAMPLES)))] * 2
            until(lambda: len(list(cache.rglob("*.hwc"))) == SAMPLES, "all is written")
    checked = subprocess.run(
        [sys.executable, "-m", "headwater", "cache", "verify", cache], check=False, capture_output=True, timeout=60, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{SAMPLES} records" in checked.stdout
    gets = server.stats()["get"]
    dataset = opened(server, cache)
    read_all(dataset)
    assert server.stats()["get"] == gets
    assert dataset.stats()["cache_disk_waits_total"] == 0


def test_a_forked_child_holds_nothing_of_what_its_dead_parent_fetched(server: testkit.Testkit, tmp_path: Path) -> None:
    server.fault("stall=1h,on=get")
    with running(FORKS, server, tmp_path / "cache") as parent:
        until(lambda: server.stats()["get"] == 2, "it asks")
        told(parent)
        assert heard(parent) == "forked"
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait(60)
        server.clear()
        dataset = opened(server, tmp_path / "cache")
        assert dataset[0]["x"]["n"] == 0
        assert dataset.stats()["cache_disk_waits_total"] == 0
        told(parent)
        assert heard(parent) == "1 0", "what it read, and how often it waited"


def test_two_datasets_of_one_process_ask_for_an_object_once(server: testkit.Testkit, tmp_path: Path) -> None:
    datasets = [opened(server, tmp_path / "cache") for _ in range(2)]
    server.fault("stall=300ms,on=get")
    threads = [threading.Thread(target=lambda dataset=dataset: dataset[5]) for dataset in datasets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.stats()["get"] == 1
    stats = [dataset.stats() for dataset in datasets]
    assert sum(each["cache_disk_waits_total"] for each in stats) == 1
    assert sum(each["cache_disk_misses_total"] for each in stats) == 1
    assert sum(each["cache_disk_hits_total"] for each in stats) == 1
