"""What a user sees when an S3 server misbehaves: an error that says how, never data that is not there."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
import torch

import headwater as hw
from servers import faulty

URI = f"s3://{faulty.BUCKET}/x"
OBJECT = f"s3://{faulty.BUCKET}/{faulty.KEY}"
VALUE = torch.arange(1000.0)


@pytest.fixture
def server() -> Iterator[faulty.Faulty]:
    stored = io.BytesIO()
    torch.save(VALUE, stored)
    with faulty.serving(stored.getvalue()) as server:
        yield server


def opened(server: faulty.Faulty, no_progress_timeout: str | None = None) -> hw.StreamingDataset:
    source = hw.Source(URI, endpoint=server.endpoint, access_key_id="a", secret_access_key="hunter2")
    return hw.StreamingDataset({"x": source}, fetch=hw.FetchConfig(retries=3, no_progress_timeout=no_progress_timeout))


def assert_recovers(server: faulty.Faulty, dataset: hw.StreamingDataset) -> None:
    server.fault = "none"
    assert torch.equal(dataset[0]["x"], VALUE)


@pytest.mark.parametrize("fault", ["truncated", "short"])
def test_a_body_that_is_too_short_is_said_to_be(server: faulty.Faulty, fault: faulty.Fault) -> None:
    dataset = opened(server)
    server.fault = fault
    with pytest.raises(hw.HeadwaterError) as error:
        dataset[0]
    text = str(error.value)
    assert OBJECT in text
    assert str(len(server.data) // 2) in text
    assert "Content-Range" not in text
    assert_recovers(server, dataset)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("slow down", "SlowDown"), ("error page", "the database of this shop"), ("reset", "")],
    ids=["503", "500", "reset"],
)
def test_a_server_that_fails_is_tried_again_and_then_unavailable(
    server: faulty.Faulty, fault: faulty.Fault, words: str
) -> None:
    dataset = opened(server)
    server.fault, server.requests = fault, 0
    with pytest.raises(hw.UnavailableError) as error:
        dataset[0]
    assert server.requests == 4
    text = str(error.value)
    assert OBJECT in text
    assert words in text
    assert server.endpoint in text
    assert len(text) < 600
    assert "hunter2" not in text
    assert_recovers(server, dataset)


def test_a_body_that_stalls_is_given_up(server: faulty.Faulty) -> None:
    dataset = opened(server, no_progress_timeout="300ms")
    server.fault = "stalled"
    with pytest.raises(hw.DeadlineError, match="nothing came for too long") as error:
        dataset[0]
    assert OBJECT in str(error.value)
    assert_recovers(server, dataset)


@pytest.mark.parametrize(("fault", "words"), [("page for listing", "<html>log in"), ("half a listing", "<ListBucketResult>")])
def test_what_is_no_listing_is_no_empty_bucket(server: faulty.Faulty, fault: faulty.Fault, words: str) -> None:
    server.fault = fault
    with pytest.raises(hw.UnavailableError) as error:
        opened(server)
    text = str(error.value)
    assert URI in text
    assert "the answer is no listing" in text
    assert words in text
