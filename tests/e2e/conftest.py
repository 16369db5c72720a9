"""A demo set as the command writes it, and a place for it in a real S3 server."""

from __future__ import annotations

import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import botocore.config
import pytest
import zstandard

import headwater as hw
from servers.rgw import S3Server

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

SAMPLES = 12
# Of the set that whole runs train on.
SMALL = 40


@dataclass(frozen=True)
class Remote:
    """A prefix of the server's bucket, and the means to write below it."""

    server: S3Server
    prefix: str
    client: S3Client

    def uri(self, path: str) -> str:
        """The URI of `path`."""
        return f"s3://{self.server['bucket']}/{self.prefix}/{path}"

    def put(self, path: str, data: bytes) -> None:
        """Stores an object."""
        self.client.put_object(Bucket=self.server["bucket"], Key=f"{self.prefix}/{path}", Body=data)

    def delete(self, path: str) -> None:
        """Removes an object."""
        self.client.delete_object(Bucket=self.server["bucket"], Key=f"{self.prefix}/{path}")

    def source(self, path: str, **other: str) -> hw.Source:
        """The source at `path`, with `other` options in place of the right ones."""
        return hw.Source(self.uri(path), **{**options(self.server), **other})


def options(server: S3Server) -> dict[str, str]:
    """What a source needs to read from the server."""
    return {name: str(value) for name, value in server.items() if name != "bucket"}


def new_remote(server: S3Server) -> Remote:
    """A prefix that nobody else uses."""
    client: S3Client = boto3.client(
        "s3",
        endpoint_url=server["endpoint"],
        aws_access_key_id=server["access_key_id"],
        aws_secret_access_key=server["secret_access_key"],
        region_name=server["region"],
        config=botocore.config.Config(s3={"addressing_style": "path"}),
    )
    return Remote(server, uuid.uuid4().hex, client)


@pytest.fixture
def remote(s3_server: S3Server) -> Remote:
    """An empty prefix for one test."""
    return new_remote(s3_server)


def written(folder: Path, samples: int) -> Path:
    """A demo set of small samples, written by the command."""
    command = Path(sys.executable).with_name("headwater")
    subprocess.run([command, "demo", "--write", folder, "--small", "--samples", str(samples)], check=True, timeout=120)
    return folder


@pytest.fixture(scope="session")
def demo_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few samples, to look at each."""
    return written(tmp_path_factory.mktemp("demo") / "set", SAMPLES)


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough samples to train on, and to be killed in the middle."""
    return written(tmp_path_factory.mktemp("small") / "set", SMALL)


@pytest.fixture(scope="session")
def remote_set(s3_server: S3Server, demo_set: Path) -> Remote:
    """The demo set in S3, every second object compressed. Read-only: other tests use it too."""
    place = new_remote(s3_server)
    for number, path in enumerate(sorted(demo_set.rglob("*.pt"))):
        name = path.relative_to(demo_set).as_posix()
        if number % 2:
            place.put(f"{name}.zst", zstandard.compress(path.read_bytes()))
        else:
            place.put(name, path.read_bytes())
    return place
