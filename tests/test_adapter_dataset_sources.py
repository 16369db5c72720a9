"""`StreamingDatasetAdapter`: its sources, one in the place of another, and configurations that describe them."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from adapted import SAMPLES, Servers, adapter, condition, expected, latent, local, remote, write
from headwater.adapter import DataSourceConfig, create_streaming_dataset_from_config
from same import assert_same


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "set")


def test_a_replica_of_the_same_name_or_named_so_is_read_when_the_first_one_is_dead(
    folder: Path, fault_servers: Servers
) -> None:
    for behind in ({"name": "latents"}, {"name": "spare", "replicas_of": "latents"}):
        server = fault_servers(folder)
        first = remote(server, "latents")
        second = DataSourceConfig(source_type="local", path_or_uri=str(folder / "latents"), **behind)
        dataset = adapter([first, second, local(folder)[1]], cache_size_gb=0.0, prefetch_ahead=0)
        assert list(dataset[0]) == ["latent_conditions", "text_conditions", "idx"]
        asked = server.stats()["get"]
        assert asked > 0
        server.kill()
        for number in range(SAMPLES):
            assert_same(dataset[number], expected(number))
        stats = dataset.stats()
        assert stats["replica_failovers_total"] > 0
        assert stats["sample_errors_total"] == 0


def test_a_replica_may_be_the_only_one_that_is_there_when_the_dataset_is_made(folder: Path, fault_servers: Servers) -> None:
    server = fault_servers(folder)
    server.kill()
    second = DataSourceConfig("spare", "local", str(folder / "latents"), replicas_of="latents")
    dataset = adapter([remote(server, "latents"), local(folder)[1], second], cache_size_gb=0.0)
    assert_same(dataset[4], expected(4))


def test_a_replica_may_have_one_of_its_own(folder: Path, fault_servers: Servers) -> None:
    servers = [fault_servers(folder) for _ in range(2)]
    third = DataSourceConfig("third", "local", str(folder / "latents"), replicas_of="second")
    second = remote(servers[1], "second", "latents", replicas_of="latents")
    dataset = adapter([third, second, remote(servers[0], "latents"), local(folder)[1]], cache_size_gb=0.0, prefetch_ahead=0)
    for server in (None, *servers):
        if server is not None:
            server.kill()
        assert_same(dataset[4], expected(4))


def test_replicas_of_each_other_are_no_source() -> None:
    one, other = (DataSourceConfig(name, "local", "/", replicas_of=of) for name, of in ("ab", "ba"))
    with pytest.raises(ValueError, match="which is no source"):
        adapter([one, other])


@pytest.mark.parametrize(
    "sources", [None, "latents", {"latents": {}}, [{"name": "latents"}], DataSourceConfig("x", "local", "/")]
)
def test_what_is_no_list_of_sources_is_refused_in_words(sources: Any) -> None:
    with pytest.raises(ValueError, match="DataSourceConfig"):
        adapter(sources)


def test_a_replica_of_no_source_is_refused(folder: Path) -> None:
    lost = DataSourceConfig("spare", "local", str(folder / "latents"), replicas_of="latent")
    with pytest.raises(ValueError, match="`latent`, which is no source"):
        adapter([*local(folder), lost])


def test_a_source_is_listed_once_and_each_object_asked_for_once(folder: Path, fault_servers: Servers) -> None:
    server = fault_servers(folder)
    dataset = adapter([remote(server, "latents"), remote(server, "conditions")])
    listed = server.stats()["list"]
    assert listed == 4, "each of two sources is looked at, and listed in one page"
    for _ in range(2):
        for number in range(SAMPLES):
            assert_same(dataset[number], expected(number))
    stats = server.stats()
    assert stats["list"] == listed, "no more of them, however many samples are read"
    assert stats["get"] == 2 * SAMPLES
    assert stats["head"] == 0


def test_explicit_credentials_are_neither_pickled_nor_shown(
    folder: Path, fault_servers: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    server = fault_servers(folder)
    secret = "a-very-secret-key"
    credentials = {
        "aws_access_key_id": secret,
        "aws_secret_access_key": secret,
        "endpoint_url": server.endpoint,
        "region_name": server.region,
    }
    config = DataSourceConfig("latents", "s3", f"{server.bucket}/latents", credentials)
    with caplog.at_level(logging.DEBUG):
        dataset = adapter([config])
        dataset[0]
    assert secret not in repr(config) + repr(dataset) + str(dataset.stats()) + caplog.text
    for value in (config, dataset):
        with pytest.raises(ValueError, match="credentials") as error:
            pickle.dumps(value)
        assert secret not in str(error.value)
    wrong = DataSourceConfig("latents", "s3", f"{server.bucket}/latents", {**credentials, "pass_phrase": secret})
    with pytest.raises(ValueError, match="pass_phrase") as error:
        adapter([wrong])
    assert secret not in str(error.value)


@pytest.mark.slow
def test_a_worker_that_is_spawned_is_handed_explicit_credentials(folder: Path, fault_servers: Servers) -> None:
    server = fault_servers(folder)
    server.expect("worth-knowing")
    credentials = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "aws_session_token": "worth-knowing"}
    place = {"endpoint_url": server.endpoint, "region_name": server.region}
    config = DataSourceConfig("latents", "s3", f"{server.bucket}/latents", {**credentials, **place})
    loader: DataLoader[Any] = DataLoader(adapter([config]), 8, num_workers=1, multiprocessing_context="spawn")
    assert [number for batch in loader for number in batch["idx"].tolist()] == list(range(SAMPLES))


def test_a_dict_describes_a_dataset(folder: Path, fault_servers: Servers) -> None:
    server = fault_servers(folder)
    s3 = remote(server, "latents")
    dataset = create_streaming_dataset_from_config(
        {
            "sources": [
                {"name": "latents", "type": "s3", "path": s3.path_or_uri, "credentials": s3.credentials},
                {"name": "conditions", "type": "local", "path": str(folder / "conditions")},
                {"name": "spare", "type": "local", "path": folder / "latents", "replicas_of": "latents"},
            ],
            "data_mapping": {"latents": "x", "conditions": "y"},
            "cache_size_gb": 0.25,
            "max_ttl_seconds": 60,
            "prefetch_ahead": 4,
            "enable_prefetch": True,
            "compression_type": "none",
        }
    )
    server.kill()
    assert_same(dataset[1], {"x": latent(1), "y": condition(1), "idx": 1})
    assert dataset.get_cache_stats()["max_size_gb"] == 0.25


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "sources"),
        (None, "sources"),
        ({"sources": None}, "a list of dicts"),
        ({"sources": {"latents": {"type": "local"}}}, "a list of dicts"),
        ({"sources": ["latents"]}, "a dict with name"),
        ({"sources": [{"name": "x", "type": "local"}]}, "path"),
        ({"sources": [{"type": "local", "path": "/"}]}, "name"),
        ({"sources": [{"name": "x", "type": "ftp", "path": "/"}]}, "ftp.*local, huggingface, s3, gcs, azure, http"),
        ({"sources": [{"name": "x", "type": "local", "path": "/", "colour": "red"}]}, "colour"),
        ({"sources": [], "cache_size": 3}, "cache_size"),
    ],
)
def test_a_dict_that_cannot_be_meant_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        create_streaming_dataset_from_config(config)
