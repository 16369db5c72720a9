"""`StreamingDatasetAdapter`: its samples, in loops, threads, workers and loaders; and where the older design failed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import headwater as hw
from adapted import SAMPLES, Servers, adapter, condition, expected, latent, local, remote, write
from headwater.adapter import DataSourceConfig, StreamingDatasetAdapter
from same import assert_same


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "set")


def test_sources_are_fields_of_one_sample_under_the_usual_keys(folder: Path) -> None:
    dataset = adapter(local(folder))
    assert isinstance(dataset, Dataset)
    assert len(dataset) == SAMPLES
    for number in range(SAMPLES):
        assert_same(dataset[number], expected(number))
    assert dataset[-1]["idx"] == SAMPLES - 1


def test_a_mapping_replaces_the_usual_one_and_other_sources_keep_their_names(folder: Path) -> None:
    assert list(adapter(local(folder), data_mapping={"latents": "x"})[0]) == ["x", "conditions", "idx"]
    (folder / "latents").rename(folder / "reference")
    reference = [DataSourceConfig("reference", "local", str(folder / "reference")), local(folder)[1]]
    assert list(adapter(reference)[0]) == ["reference", "text_conditions", "idx"]


def test_no_other_index_than_there_are_samples(folder: Path) -> None:
    dataset = adapter(local(folder))
    for index in (SAMPLES, 10**6, -SAMPLES - 1, 2**70):
        with pytest.raises(IndexError):
            dataset[index]
    with pytest.raises(IndexError):
        dataset.prefetch_batch([0, SAMPLES])
    for wrong in (True, "0", None, 1.5):
        with pytest.raises(TypeError):
            dataset[wrong]  # type: ignore[index]


def test_values_are_the_callers_own(folder: Path) -> None:
    dataset = adapter(local(folder))
    for _ in range(3):
        first, second = dataset[3], dataset[3]
        assert_same(first, expected(3))
        first["latent_conditions"]["latents"].zero_()
        first["text_conditions"]["prompt_embeds"].fill_(-1)
        assert_same(second, expected(3))
    assert dataset.get_cache_stats()["total_hits"] >= 8


def test_samples_that_lack_an_object_are_left_out_and_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "conditions/condition_0005.pt").unlink()
    with caplog.at_level(logging.WARNING, logger="headwater"):
        dataset = adapter(local(folder))
    assert "conditions: 0005" in caplog.text
    assert len(dataset) == SAMPLES - 1
    assert dataset[5]["text_conditions"]["prompt"] == "clip 6"
    with pytest.raises(FileNotFoundError, match="0005"):
        adapter(local(folder), on_missing="error")


def test_a_source_that_is_not_there_is_an_error_at_once(folder: Path) -> None:
    gone = DataSourceConfig("masks", "local", str(folder / "masks"))
    with pytest.raises(FileNotFoundError, match="masks"):
        adapter([*local(folder), gone])
    (folder / "masks").mkdir()
    with pytest.raises(FileNotFoundError, match="masks"):
        adapter([*local(folder), gone])


def test_a_file_that_is_gone_later_is_an_error_of_its_sample_alone(folder: Path) -> None:
    dataset = adapter(local(folder))
    (folder / "latents/latent_0007.pt").unlink()
    with pytest.raises(FileNotFoundError, match="latent_0007"):
        dataset[7]
    assert_same(dataset[8], expected(8))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cache_size_gb": -1}, "cache_size_gb"),
        ({"cache_size_gb": float("nan")}, "cache_size_gb"),
        ({"cache_size_gb": "4"}, "cache_size_gb"),
        ({"prefetch_ahead": -1}, "prefetch_ahead"),
        ({"prefetch_ahead": 2.5}, "prefetch_ahead"),
        ({"max_ttl_seconds": -1}, "ttl"),
        ({"compression_type": "lz4"}, "lz4"),
        ({"data_mapping": {"depth": "d"}}, "depth"),
        ({"data_mapping": {"latents": "idx"}}, "idx"),
        ({"data_mapping": {"latents": "x", "conditions": "x"}}, "`x`: two fields"),
        ({"data_mapping": {"latents": "conditions"}}, "`conditions`: two fields"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(folder: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        adapter(local(folder), **arguments)


def test_names_may_be_exchanged(folder: Path) -> None:
    swapped = adapter(local(folder), data_mapping={"latents": "conditions", "conditions": "latents"})[3]
    assert_same(swapped, {"conditions": latent(3), "latents": condition(3), "idx": 3})


@pytest.mark.parametrize("endless", [float("inf"), 1e300])
def test_endless_sizes_and_times_are_as_much_as_there_is(folder: Path, endless: float) -> None:
    dataset = adapter(local(folder), cache_size_gb=endless, max_ttl_seconds=endless)
    assert_same(dataset[3], expected(3))
    assert 0 < dataset.get_cache_stats()["max_size_gb"] < 1e9


def test_latents_stay_as_they_are_stored_where_that_is_wished(folder: Path) -> None:
    # Sizes of the video, not of its latents.
    rows = {"latents": torch.zeros(6, 16), "num_frames": 81, "height": 480, "width": 832}
    for path in (folder / "latents").iterdir():
        torch.save(rows, path)
    with pytest.raises(hw.CorruptDataError, match="6 rows of 16 for 81 frames"):
        adapter(local(folder))[0]
    assert_same(adapter(local(folder), restore_latents=False)[0]["latent_conditions"], rows)


def test_without_sources_there_is_no_dataset() -> None:
    with pytest.raises(ValueError, match="source"):
        adapter([])


def test_a_cache_larger_than_the_machine_is_clamped_with_one_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="headwater"):
        for _ in range(2):
            dataset = adapter(local(folder), cache_size_gb=123_456.0)
            dataset[0]
            assert 0 < dataset.get_cache_stats()["max_size_gb"] < 123_456
    assert len([line for line in caplog.messages if "cache memory" in line]) == 1


def test_everything_works_inside_a_running_loop_and_a_nested_call(folder: Path) -> None:
    async def inner() -> list[str]:
        dataset = adapter(local(folder))
        await dataset.start_prefetch_worker()
        dataset.prefetch_batch(range(4))

        def called_back() -> str:
            return str(dataset[5]["text_conditions"]["prompt"])

        loop = asyncio.get_running_loop()
        # On the loop, from a callback of it, and on a thread beside it.
        prompts = [called_back(), await loop.run_in_executor(None, called_back)]
        future = loop.create_future()
        loop.call_soon(lambda: future.set_result(called_back()))
        prompts.append(await future)
        for batch in DataLoader(dataset, 6):
            prompts += batch["text_conditions"]["prompt"]
            await asyncio.sleep(0)
        dataset.stop_prefetch_worker()
        return prompts

    assert asyncio.run(inner()) == ["clip 5"] * 3 + [f"clip {number}" for number in range(SAMPLES)]


def test_several_threads_with_loops_of_their_own_share_one_dataset(folder: Path) -> None:
    dataset, failed = adapter(local(folder)), []

    async def walk(begin: int) -> None:
        for step in range(3 * SAMPLES):
            number = (begin + step) % SAMPLES
            assert_same(dataset[number], expected(number))
            await asyncio.sleep(0)

    def run(begin: int) -> None:
        try:
            asyncio.run(walk(begin))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(5 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed


@pytest.mark.parametrize(("workers", "start"), [(0, None), (2, "fork"), pytest.param(2, "spawn", marks=pytest.mark.slow)])
def test_every_sample_of_every_epoch_comes_out_of_a_loader(folder: Path, workers: int, start: str | None) -> None:
    dataset = adapter(local(folder))
    dataset[0]  # so that the parent has threads that no child has
    loader: DataLoader[Any] = DataLoader(
        dataset, 4, shuffle=True, num_workers=workers, multiprocessing_context=start, persistent_workers=workers > 0
    )
    for _ in range(2):
        seen = []
        for batch in loader:
            for place, number in enumerate(batch["idx"].tolist()):
                assert torch.equal(batch["latent_conditions"]["latents"][place], latent(number)["latents"])
                assert batch["text_conditions"]["prompt"][place] == f"clip {number}"
                seen.append(number)
        assert sorted(seen) == list(range(SAMPLES))


def test_a_sampler_has_samples_fetched_in_its_own_shuffled_order(folder: Path, fault_servers: Servers) -> None:
    server = fault_servers(folder)
    dataset = adapter([remote(server, "latents"), remote(server, "conditions")])
    sampler = hw.Sampler(dataset, batch_size=4, shuffle=True, seed=1)
    loader = sampler.track(DataLoader(dataset, batch_sampler=sampler))
    seen = [number for batch in loader for number in batch["idx"].tolist()]
    assert sorted(seen) == list(range(SAMPLES)) != seen
    assert dataset.stats()["prefetch_queued_total"] > 0
    assert server.stats()["get"] == 2 * SAMPLES


def test_the_loader_of_headwater_makes_batches_of_it(folder: Path) -> None:
    with hw.StreamingDataLoader(adapter(local(folder)), 4, shuffle=True, seed=3) as loader:
        for batch in loader:
            numbers = batch["__index__"].tolist()
            assert_same(batch["latent_conditions"]["latents"], torch.stack([latent(number)["latents"] for number in numbers]))


def test_it_is_pickled_as_what_it_is(folder: Path) -> None:
    dataset = adapter(local(folder), data_mapping={"latents": "x"})
    dataset.stop_prefetch_worker()
    again = pickle.loads(pickle.dumps(dataset))
    assert type(again) is StreamingDatasetAdapter
    assert list(again[2]) == ["x", "conditions", "idx"]
    assert again.prefetch_batch([0]) == 0
    again.start_prefetch_worker()
    assert again.prefetch_batch([0]) == 1


@pytest.mark.slow
def test_the_names_are_there_without_torch(folder: Path) -> None:
    script = """
import json, sys
sys.modules["torch"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
from headwater.adapter import DataSourceConfig, StreamingDatasetAdapter
sources = [DataSourceConfig(name, "local", f"{sys.argv[1]}/{name}") for name in ("latents", "conditions")]
sample = StreamingDatasetAdapter(sources, cache_size_gb=0.1)[3]
print(json.dumps([sorted(sample), type(sample["latent_conditions"]["latents"]).__module__]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, str(folder)], check=True, capture_output=True, text=True, env=dict(os.environ)
    )
    assert json.loads(ran.stdout) == [["idx", "latent_conditions", "text_conditions"], "numpy"]
