"""What is kept on disk: found by later runs and by every process of the machine."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import headwater as hw
from numbered import SAMPLES, opened, read_all, served
from servers import testkit


@pytest.fixture
def server(tmp_path: Path, fault_servers: Callable[[Path], testkit.Testkit]) -> testkit.Testkit:
    return served(tmp_path / "data", fault_servers)


def wait_for(dataset: hw.StreamingDataset, metric: str, least: int) -> None:
    ends = time.monotonic() + 60
    while dataset.stats()[metric] < least:
        assert time.monotonic() < ends, dataset.stats()
        time.sleep(0.01)


def filled(server: testkit.Testkit, folder: Path) -> None:
    dataset = opened(server, folder)
    read_all(dataset)
    wait_for(dataset, "cache_disk_insertions_total", SAMPLES)


def test_a_later_run_reads_from_disk(server: testkit.Testkit, tmp_path: Path) -> None:
    filled(server, tmp_path / "cache")
    gets = server.stats()["get"]
    dataset = opened(server, tmp_path / "cache")
    read_all(dataset)
    loader = hw.StreamingDataLoader(dataset, batch_size=5, shuffle=True, seed=3)
    values = sorted(float(value) for batch in loader for value in batch["x"]["value"][:, 0, 0])
    assert values == [float(sample) for sample in range(SAMPLES)]
    assert server.stats()["get"] == gets
    assert loader.stats()["loader_units_reused_total"] == SAMPLES


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_dataloader_share_what_is_on_disk(server: testkit.Testkit, tmp_path: Path, method: str) -> None:
    filled(server, tmp_path / "cache")
    dataset = opened(server, tmp_path / "cache")
    read_all(dataset)
    gets = server.stats()["get"]
    loader = DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context=method, collate_fn=list)
    samples = [sample for batch in loader for sample in batch]
    assert [sample["x"]["n"] for sample in samples] == list(range(SAMPLES))
    assert server.stats()["get"] == gets


def test_a_process_that_ends_leaves_no_lock(server: testkit.Testkit, tmp_path: Path) -> None:
    script = """
import sys, headwater as hw
source = hw.Source(sys.argv[1], endpoint=sys.argv[2], region=sys.argv[3], access_key_id="any", secret_access_key="any")
dataset = hw.StreamingDataset({"x": source}, cache=hw.CacheConfig(memory=0, disk=sys.argv[4]))
print(sum(sample["x"]["n"] for sample in dataset))
"""
    arguments = [server.uri("s3", "x"), server.endpoint, server.region, str(tmp_path / "cache")]
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], check=True, capture_output=True, timeout=60, text=True
        )
        assert int(done.stdout) == sum(range(SAMPLES))
    listed = subprocess.run(
        [sys.executable, "-m", "headwater", "cache", "ls", tmp_path / "cache"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"{server.uri('s3', 'x')} at {server.endpoint}" in listed.stdout
    assert "in use" not in listed.stdout


def test_a_folder_of_somebody_elses_is_refused(server: testkit.Testkit, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(hw.ConfigError, match=r"chapter\.txt.*not ours"):
        opened(server, tmp_path / "thesis")
    with pytest.raises(hw.ConfigError, match="disk_capacity"):
        hw.StreamingDataset({"x": server.source("s3", "x")}, cache=hw.CacheConfig(disk=tmp_path / "c", disk_capacity="much"))


def test_a_setting_in_toml_names_the_folder(server: testkit.Testkit, tmp_path: Path) -> None:
    toml = tmp_path / "headwater.toml"
    options = {"endpoint": server.endpoint, "region": server.region, "access_key_id": "any", "secret_access_key": "any"}
    lines = [f"{name} = {value!r}" for name, value in options.items()]
    toml.write_text(
        f"[fields.x]\nuri = '{server.uri('s3', 'x')}'\n"
        + "\n".join(lines)
        + f"\n[cache]\nmemory = 0\ndisk = '{tmp_path / 'cache'}'\ndisk_capacity = '1GB'\nttl = '1h'\n"
    )
    dataset = hw.StreamingDataset.open(toml)
    read_all(dataset)
    wait_for(dataset, "cache_disk_insertions_total", SAMPLES)
    assert dataset.stats()["cache_disk_capacity_bytes"] == 1_000_000_000


class Untagged(http.server.SimpleHTTPRequestHandler):
    """A server that tells times and no entity tags, as Python's own does."""

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def untagged(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Untagged, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{serving.server_address[1]}/"
        serving.shutdown()


def put_in_the_same_second(path: Path, value: float, elements: int) -> None:
    torch.save(torch.full((elements,), value), path)
    os.utime(path, (1_750_000_000, 1_750_000_000))


@pytest.mark.parametrize("tier", ["disk", "memory"])
def test_what_was_replaced_in_the_same_second_is_not_served_as_it_was(
    tier: str, untagged: tuple[Path, str], tmp_path: Path
) -> None:
    served, uri = untagged
    put_in_the_same_second(served / "0.pt", 1.0, 100)
    place = {"memory": 0, "disk": tmp_path / "cache", "disk_capacity": "1GB"} if tier == "disk" else {"memory": "1MB"}

    def reopened() -> hw.StreamingDataset:
        cache = hw.CacheConfig(ttl="1h" if tier == "disk" else "1ms", **place)  # type: ignore[arg-type]
        return hw.StreamingDataset(uri, cache=cache, on_changed="reload", manifest_max_age=0)

    dataset = reopened()
    assert dataset[0]["data"].tolist() == [1.0] * 100
    wait_for(dataset, "cache_disk_insertions_total" if tier == "disk" else "cache_memory_entries", 1)
    put_in_the_same_second(served / "0.pt", 2.0, 200)
    if tier == "disk":
        dataset = reopened()
    time.sleep(0.01)
    assert dataset[0]["data"].tolist() == [2.0] * 200
