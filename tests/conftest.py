"""Servers for the tests: found in the environment, started when installed, else a named skip (a failure under CI=true)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from servers import rgw


def absent(what: str) -> None:
    """Ends the test: what it needs is not here. Continuous integration has everything, so there that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}; under CI=true that is an error", pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Manifests are kept in a folder of this session, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWATER_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[rgw.S3Server]:
    """A Ceph RADOS Gateway: the one named in HEADWATER_TEST_S3, else one for this session."""
    if given := os.environ.get(rgw.ENVIRONMENT):
        yield json.loads(given)
        return
    if missing := rgw.missing_programs():
        absent(f"no S3 server: {', '.join(missing)} not installed, `make test-servers` installs them")
    with rgw.serving() as server:
        yield server
