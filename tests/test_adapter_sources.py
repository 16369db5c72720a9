"""Sources by the names of existing trainers: the same objects from six kinds of places, awaited from any loop."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import pickle
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard

from headwater.adapter import (
    AzureDataSource,
    DataSource,
    DataSourceConfig,
    GCSDataSource,
    HTTPDataSource,
    HuggingFaceDataSource,
    LocalDataSource,
    S3DataSource,
    create_data_source,
)
from same import assert_same
from servers.testkit import Testkit
from waiting import until

CLASSES = {
    "local": LocalDataSource,
    "huggingface": HuggingFaceDataSource,
    "s3": S3DataSource,
    "gcs": GCSDataSource,
    "azure": AzureDataSource,
    "http": HTTPDataSource,
}
FILES = ("latent_0000.pt", "latent_0001.pt.zst", "more/latent_0002.pt", "more/latent_0003.pt.zst")
SECRET = "a-very-secret-word"
Servers = Callable[[Path], Testkit]


def value(number: int) -> dict[str, Any]:
    return {
        "latents": torch.arange(240.0).reshape(4, 3, 20).bfloat16() + number,
        "inner": {"mask": torch.tensor([True, False]), "words": [f"clip {number}"]},
        "num_frames": number,
    }


def write(root: Path) -> Path:
    """Four objects, two of them compressed, and what is none."""
    (root / "more").mkdir(parents=True)
    for number, name in enumerate(FILES):
        path = root / name.removesuffix(".zst")
        torch.save(value(number), path)
        if name.endswith(".zst"):
            (root / name).write_bytes(zstandard.compress(path.read_bytes()))
            path.unlink()
    (root / "notes.txt").write_text("none")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "set")


@pytest.fixture(params=[*CLASSES])
def config(request: pytest.FixtureRequest, folder: Path) -> DataSourceConfig:
    """A place of each type, on a real server, with credentials as others call them."""
    kind, prefix = request.param, uuid.uuid4().hex
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if kind == "local":
        return DataSourceConfig("latents", kind, str(folder))
    if kind == "huggingface":
        stub = request.getfixturevalue("fault_servers")(folder.parent)
        return DataSourceConfig("latents", kind, f"{stub.dataset}@main/set", {"endpoint": stub.hub, "token": stub.token})
    if kind == "s3":
        from e2e.conftest import new_remote

        server = request.getfixturevalue("s3_server")
        s3 = new_remote(server)
        for name, data in files.items():
            s3.put(name, data)
        credentials = {
            "aws_access_key_id": server["access_key_id"],
            "aws_secret_access_key": server["secret_access_key"],
            "endpoint_url": server["endpoint"],
            "region_name": server["region"],
        }
        return DataSourceConfig("latents", kind, f"{server['bucket']}/{s3.prefix}", credentials)
    if kind == "gcs":
        from servers.fake_gcs import put_object

        server = request.getfixturevalue("gcs_server")
        for name, data in files.items():
            put_object(server, f"{prefix}/{name}", data)
        credentials = {"endpoint": server["endpoint"], "anonymous": True}
        return DataSourceConfig("latents", kind, f"gcs://{server['bucket']}/{prefix}", credentials)
    if kind == "azure":
        from servers.azurite import put_blob

        server = request.getfixturevalue("azure_server")
        for name, data in files.items():
            put_blob(server, f"{prefix}/{name}", data)
        credentials = {"endpoint": server["endpoint"], "account_name": server["account"], "account_key": server["key"]}
        return DataSourceConfig("latents", kind, f"{server['container']}/{prefix}", credentials)
    server = request.getfixturevalue("http_server")
    write(Path(server["folder"]) / prefix)
    credentials = {"username": server["user"], "password": server["password"]}
    return DataSourceConfig("latents", kind, f"{server['private']}/{prefix}", credentials)


@pytest.fixture
def source(config: DataSourceConfig) -> DataSource:
    return create_data_source(config)


every_kind = pytest.mark.e2e


@every_kind
def test_a_type_gives_its_class(source: DataSource, config: DataSourceConfig) -> None:
    assert type(source) is CLASSES[config.source_type]
    assert isinstance(source, DataSource)
    assert source.config is config


@every_kind
def test_objects_are_listed_sorted_and_relative_plain_and_compressed(source: DataSource) -> None:
    assert source.list_files() == list(FILES)
    assert source.list_files("more") == source.list_files("more/") == list(FILES[2:])
    with pytest.raises(FileNotFoundError):
        source.list_files("nowhere")


@every_kind
def test_what_is_fetched_is_what_was_stored_and_compressed_objects_are_found_by_their_plain_name(source: DataSource) -> None:
    async def fetch() -> list[dict[str, Any]]:
        plain = [name.removesuffix(".zst") for name in FILES]
        return list(await asyncio.gather(*(source.fetch_file(name) for name in [*FILES, *plain])))

    fetched = asyncio.run(fetch())
    for place, found in enumerate(fetched):
        assert_same(found, value(place % len(FILES)))
    assert_same(source.fetch_file_sync(FILES[1]), value(1))


@every_kind
def test_what_is_not_there_is_a_file_not_found(source: DataSource, config: DataSourceConfig) -> None:
    with pytest.raises(FileNotFoundError, match="latent_0009"):
        asyncio.run(source.fetch_file("latent_0009.pt"))
    with pytest.raises(FileNotFoundError, match="latent_0009"):
        source.fetch_file_sync("latent_0009.pt.zst")
    lost = DataSourceConfig("x", config.source_type, f"{config.path_or_uri}/nowhere", config.credentials)
    with pytest.raises(FileNotFoundError):
        # Where there are no folders, only what is asked for can be missing.
        create_data_source(lost).fetch_file_sync("x.pt")


@every_kind
def test_compressed_objects_are_left_alone_where_that_is_asked_for(source: DataSource) -> None:
    assert_same(source.fetch_file_sync(FILES[0], decompress=False), value(0))
    with pytest.raises(FileNotFoundError):
        source.fetch_file_sync("latent_0001.pt", decompress=False)
    with pytest.raises(ValueError, match="compressed"):
        asyncio.run(source.fetch_file(FILES[1], decompress=False))


@every_kind
@pytest.mark.parametrize("path", ["../x.pt", "a//b.pt", "", "more/../latent_0000.pt"])
def test_a_path_that_leaves_the_root_is_refused(source: DataSource, path: str) -> None:
    with pytest.raises(ValueError, match="read"):
        asyncio.run(source.fetch_file(path))


@every_kind
def test_objects_are_fetched_ahead_and_one_that_fails_stops_no_other(source: DataSource) -> None:
    async def ahead() -> dict[str, bool]:
        return await source.prefetch_files([FILES[0], "latent_0001.pt", "gone.pt", FILES[2]])

    there = {FILES[0]: True, "latent_0001.pt": True, "gone.pt": False, FILES[2]: True}
    assert asyncio.run(ahead()) == there
    for number, name in enumerate((FILES[0], "latent_0001.pt", FILES[2])):
        assert_same(source.fetch_file_sync(name), value(number))
    assert source.prefetch_files_sync([FILES[3]]) == {FILES[3]: True}


@every_kind
def test_no_secret_is_shown_and_none_is_pickled(
    config: DataSourceConfig, source: DataSource, caplog: pytest.LogCaptureFixture
) -> None:
    given = config.credentials if isinstance(config.credentials, dict) else {}
    words = [str(given[name]) for name in given if "key" in name or name in ("token", "password")]
    with caplog.at_level(logging.DEBUG), pytest.raises(FileNotFoundError) as error:
        source.fetch_file_sync("gone.pt")
    shown = repr(config) + str(config) + repr(source) + str(error.value) + caplog.text
    for word in words:
        assert word not in shown
    for kept in (config, source):
        if words:
            with pytest.raises(ValueError, match="credentials"):
                pickle.dumps(kept)
        else:
            assert repr(pickle.loads(pickle.dumps(kept))) == repr(kept)


@every_kind
def test_a_forked_process_connects_by_itself(source: DataSource) -> None:
    source.fetch_file_sync(FILES[0])

    async def awaited() -> bool:
        return bool((await source.fetch_file(FILES[1]))["num_frames"] == 1)

    def work(answers: Any) -> None:
        answers.put((source.fetch_file_sync(FILES[2])["num_frames"], asyncio.run(awaited())))

    assert asyncio.run(awaited())
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=work, args=(answers,))
    child.start()
    assert answers.get(timeout=60) == (2, True)
    child.join(30)
    assert child.exitcode == 0
    assert asyncio.run(awaited())


def local(folder: Path) -> DataSource:
    return create_data_source(DataSourceConfig("latents", "local", str(folder)))


def slow(server: Testkit, seconds: float) -> DataSource:
    """A source whose every answer takes its time."""
    source = create_data_source(DataSourceConfig("x", "http", server.http))
    server.fault(f"stall={int(seconds * 1000)}ms")
    return source


def test_an_unknown_type_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"`ftp`: available are local, huggingface, s3, gcs, azure, http"):
        create_data_source(DataSourceConfig("x", "ftp", "host/path"))


def test_a_place_of_another_type_is_refused(folder: Path) -> None:
    for kind, place in (("s3", "gs://bucket/x"), ("local", "s3://bucket/x"), ("http", "ftp://host/x"), ("azure", "s3://b/x")):
        with pytest.raises(ValueError, match=f"type `{kind}`"):
            create_data_source(DataSourceConfig("x", kind, place))
    with pytest.raises(ValueError, match="not `s3`"):
        S3DataSource(DataSourceConfig("x", "local", str(folder)))
    with pytest.raises(ValueError, match="empty"):
        create_data_source(DataSourceConfig("x", "local", ""))


def test_a_root_that_is_not_there_is_a_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        create_data_source(DataSourceConfig("x", "local", str(tmp_path / "nowhere")))


def test_a_value_that_is_no_dict_is_in_one(tmp_path: Path) -> None:
    torch.save(torch.arange(3), tmp_path / "x.pt")
    assert_same(local(tmp_path).fetch_file_sync("x.pt"), {"data": torch.arange(3)})


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"x": Runs()}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="mkdir"):
        asyncio.run(local(tmp_path).fetch_file("x.pt"))
    assert not (tmp_path / "ran").exists()


def test_values_are_the_callers_own(folder: Path) -> None:
    source = local(folder)
    source.prefetch_files_sync([FILES[0]])
    for _ in range(3):
        source.fetch_file_sync(FILES[0])["latents"].zero_()
    assert_same(source.fetch_file_sync(FILES[0]), value(0))


def test_what_was_fetched_ahead_is_not_asked_for_again(folder: Path, fault_servers: Servers) -> None:
    server = fault_servers(folder)
    source = create_data_source(DataSourceConfig("x", "http", server.http))
    assert all(source.prefetch_files_sync([FILES[0], FILES[2]]).values())
    assert all(source.prefetch_files_sync([FILES[0], FILES[2]]).values())
    asked = server.stats()["get"]
    for number in (0, 2):
        assert_same(source.fetch_file_sync(FILES[number]), value(number))
    assert server.stats()["get"] == asked
    source.fetch_file_sync(FILES[0])
    assert server.stats()["get"] == asked + 1


@pytest.mark.parametrize("kind", ["s3", "http"])
def test_a_place_is_listed_when_that_is_asked_for_and_for_no_item(folder: Path, fault_servers: Servers, kind: str) -> None:
    for number in range(20):
        torch.save(value(number), folder / f"more/latent_{number:04}.pt")
    server = fault_servers(folder)
    credentials = {"access_key_id": "any", "secret_access_key": "any", "endpoint": server.endpoint, "region": server.region}
    place = DataSourceConfig("x", kind, server.uri(kind, ""), credentials if kind == "s3" else None)
    source = create_data_source(place)
    listed = server.stats()["list"]
    names = source.list_files("more")
    once = server.stats()["list"] - listed
    assert len(names) > 20
    assert once == 1
    source.prefetch_files_sync(names[:8])
    for name in names:
        source.fetch_file_sync(name)
        asyncio.run(source.fetch_file(name))
    assert server.stats()["list"] - listed == once, "items are asked for by their names"
    assert source.list_files("more") == names
    assert server.stats()["list"] - listed == 2 * once, "a listing is what there is now"


def test_the_loop_goes_on_while_a_coroutine_waits(folder: Path, fault_servers: Servers) -> None:
    async def work() -> int:
        source = slow(fault_servers(folder), 0.5)
        waiting = asyncio.create_task(source.fetch_file(FILES[0]))
        ticks = 0
        while not waiting.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert_same(waiting.result(), value(0))
        return ticks

    assert asyncio.run(work()) > 5


def test_many_loops_in_many_threads_wait_at_once(folder: Path) -> None:
    source, failed = local(folder), []

    async def work() -> None:
        for _ in range(5):
            found = await asyncio.gather(*(source.fetch_file(FILES[number % 4]) for number in range(20)))
            for number, it in enumerate(found):
                assert_same(it, value(number % 4))

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed


def test_a_cancelled_coroutine_ends_and_the_next_one_works(folder: Path, fault_servers: Servers) -> None:
    async def work() -> None:
        server = fault_servers(folder)
        source = slow(server, 30)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(source.fetch_file(FILES[0]), 0.2)
        assert time.monotonic() - began < 20
        server.clear()
        assert_same(await source.fetch_file(FILES[0]), value(0))

    asyncio.run(work())


def test_a_loop_that_is_closed_while_it_waits_harms_no_other(folder: Path, fault_servers: Servers) -> None:
    server = fault_servers(folder)
    source = slow(server, 0.3)
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(source.fetch_file(FILES[0]))
    loop.run_until_complete(asyncio.sleep(0.05))
    waiting.cancel()
    loop.run_until_complete(asyncio.gather(waiting, return_exceptions=True))
    loop.close()
    assert_same(asyncio.run(source.fetch_file(FILES[0])), value(0))


def test_the_thread_that_wakes_loops_ends_when_nobody_waits(folder: Path) -> None:
    asyncio.run(local(folder).fetch_file(FILES[0]))
    gc.collect()
    until(lambda: not [it for it in threading.enumerate() if it.name == "headwater-awaiting"], "the thread ends")


@pytest.fixture
def function() -> Callable[[], dict[str, str]]:
    return lambda: {"access_key_id": "any", "secret_access_key": SECRET}


def test_a_function_may_give_credentials(folder: Path, fault_servers: Servers, function: Any) -> None:
    server = fault_servers(folder)
    # How it is reached is said by the environment; who asks, by the function.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        patch.setenv("AWS_REGION", server.region)
        source = create_data_source(DataSourceConfig("x", "s3", server.bucket, function))
    assert_same(source.fetch_file_sync(FILES[0]), value(0))
    assert SECRET not in repr(source)
