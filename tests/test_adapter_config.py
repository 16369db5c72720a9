"""Where a source is, in the words of existing trainers: which place is meant, and what becomes of credentials."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from headwater.adapter import DataSourceConfig, LocalDataSource

SECRET = "a-very-secret-word"


@pytest.mark.parametrize(
    ("kind", "place", "uri"),
    [
        ("s3", "bucket/run", "s3://bucket/run"),
        ("s3", "datasets/run", "s3://datasets/run"),
        ("s3", "s3://datasets/run", "s3://datasets/run"),
        ("gcs", "datasets/run", "gs://datasets/run"),
        ("gcs", "gcs://datasets/run", "gs://datasets/run"),
        ("azure", "datasets/run", "az://datasets/run"),
        ("http", "datasets/run", "https://datasets/run"),
        ("huggingface", "org/name/latents", "hf://datasets/org/name/latents"),
        ("huggingface", "datasets/org/name", "hf://datasets/org/name"),
        ("local", "datasets/run", "datasets/run"),
    ],
)
def test_a_place_is_the_one_that_its_type_makes_it(kind: str, place: str, uri: str) -> None:
    assert DataSourceConfig("x", kind, place).source().uri == uri


def test_a_configuration_with_credentials_is_copied_compared_and_hashed() -> None:
    def config(secret: str) -> DataSourceConfig:
        return DataSourceConfig("x", "s3", "bucket/run", {"aws_access_key_id": "any", "aws_secret_access_key": secret})

    one = config(SECRET)
    for copied in (copy.copy(one), copy.deepcopy(one), copy.deepcopy({"sources": [one]})["sources"][0], config(SECRET)):
        assert copied == one
        assert hash(copied) == hash(one)
        assert copied.credentials == one.credentials
        assert SECRET not in repr(copied)
    assert config("another") != one


@pytest.mark.parametrize(
    "credentials", [SECRET, [SECRET], {"credentials": SECRET}, {"secret": SECRET}, {"uri": SECRET}, {1: SECRET}]
)
def test_credentials_that_cannot_be_meant_are_refused_without_being_shown(credentials: object, tmp_path: Path) -> None:
    config = DataSourceConfig("x", "local", str(tmp_path), credentials)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot use") as error:
        LocalDataSource(config)
    assert SECRET not in repr(config) + str(error.value)


def test_a_thread_that_outlives_the_main_one_goes_on_awaiting(tmp_path: Path) -> None:
    torch.save({"x": 3}, tmp_path / "x.pt")
    script = """
import asyncio, sys, threading
from headwater.adapter import DataSourceConfig, LocalDataSource
source = LocalDataSource(DataSourceConfig("x", "local", sys.argv[1]))

def work():
    threading.main_thread().join()
    print([asyncio.run(source.fetch_file("x.pt"))["x"] for _ in range(2)])

threading.Thread(target=work).start()
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[3, 3]\n"
