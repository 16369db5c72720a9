"""Servers for the tests: found in the environment, started when installed, else a named skip (a failure under CI=true)."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servers import testkit
from servers.azurite import AzureServer
from servers.fake_gcs import GcsServer
from servers.keeper import SERVERS, serving
from servers.nginx import HttpServer
from servers.rclone import RcloneServer
from servers.rgw import S3Server


def absent(what: str) -> None:
    """Ends the test: what it needs is not here. Continuous integration has everything, so there that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}; under CI=true that is an error", pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session", autouse=True)
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where manifests are kept instead of in the user's folder."""
    folder = tmp_path_factory.mktemp("homes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWATER_HOME", str(folder / "session"))
        yield folder


@pytest.fixture(autouse=True)
def home(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for this test alone: another one's server may get the same port, and would find this one's manifest."""
    monkeypatch.setenv("HEADWATER_HOME", str(homes / uuid.uuid4().hex))


def server(name: str) -> Iterator[Any]:
    """The server that a variable describes, else one for this session."""
    kind = SERVERS[name]
    if given := os.environ.get(kind.variable):
        yield json.loads(given)
        return
    if missing := kind.missing():
        absent(f"no {name} server: {', '.join(missing)} not installed, `make test-servers` installs them")
    with serving(name) as keepers:
        yield keepers.described[name]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A Ceph RADOS Gateway."""
    yield from server("s3")


@pytest.fixture(scope="session")
def azure_server() -> Iterator[AzureServer]:
    """Azurite."""
    yield from server("azure")


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GcsServer]:
    """fake-gcs-server."""
    yield from server("gcs")


@pytest.fixture(scope="session")
def http_server() -> Iterator[HttpServer]:
    """Nginx over a folder."""
    yield from server("http")


@pytest.fixture(scope="session")
def rclone_server() -> Iterator[RcloneServer]:
    """Rclone's S3 over a folder."""
    yield from server("rclone")


@pytest.fixture
def fault_servers() -> Iterator[Callable[[Path], testkit.Testkit]]:
    """Starts fault servers, each of which serves a folder until the test ends."""
    if missing := testkit.missing():
        absent(f"no fault server: {', '.join(missing)} not built")
    with contextlib.ExitStack() as stack:
        yield lambda folder: stack.enter_context(testkit.serving(folder))
