"""What a user sees when S3 says no: the URI, the reason, what to do, and never the secret."""

from __future__ import annotations

import io
import logging
import socket
from typing import Any

import pytest
import torch

import headwater as hw

from .conftest import Remote, options

pytestmark = pytest.mark.e2e

WRONG_SECRET = "wrongwrongwrongwrongwrongwrongwrongwrong"


def stored(value: Any) -> bytes:
    """What `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.fixture
def three(remote: Remote) -> Remote:
    """Three samples of one field."""
    for number in range(3):
        remote.put(f"latents/{number}.pt", stored(torch.full((4, 8), float(number))))
    return remote


def assert_tells(error: pytest.ExceptionInfo[BaseException], uri: str, *words: str) -> None:
    """Fails unless the message names the URI and each of the words, and no secret."""
    assert isinstance(error.value, hw.HeadwaterError)
    text = str(error.value)
    for word in (uri, *words):
        assert word in text, text
    assert WRONG_SECRET not in text


def test_a_missing_bucket_is_not_found(remote: Remote) -> None:
    source = hw.Source("s3://no-such-bucket-here/latents", **options(remote.server))
    with pytest.raises(hw.NotFoundError) as error:
        hw.StreamingDataset({"latents": source})
    assert isinstance(error.value, FileNotFoundError)
    assert_tells(error, "s3://no-such-bucket-here", "bucket")


def test_a_prefix_with_nothing_below_it_is_not_found(remote: Remote) -> None:
    with pytest.raises(hw.NotFoundError) as error:
        hw.StreamingDataset({"latents": remote.source("nothing")})
    assert_tells(error, remote.uri("nothing"))


def test_an_unknown_key_is_denied(three: Remote) -> None:
    with pytest.raises(hw.AccessDeniedError) as error:
        hw.StreamingDataset({"latents": three.source("latents", access_key_id="NOBODY")})
    assert isinstance(error.value, PermissionError)
    assert_tells(error, three.uri("latents"), "credentials")
    assert three.server["secret_access_key"] not in str(error.value)


def test_a_wrong_secret_is_denied(three: Remote) -> None:
    with pytest.raises(hw.AccessDeniedError) as error:
        hw.StreamingDataset({"latents": three.source("latents", secret_access_key=WRONG_SECRET)})
    assert_tells(error, three.uri("latents"), "credentials")


def test_anonymous_reading_of_a_private_bucket_is_denied(three: Remote) -> None:
    place = {"endpoint": three.server["endpoint"], "region": three.server["region"]}
    with pytest.raises(hw.AccessDeniedError) as error:
        hw.StreamingDataset({"latents": hw.Source(three.uri("latents"), anonymous=True, **place)})
    assert_tells(error, three.uri("latents"))


def test_an_object_deleted_after_listing_is_not_found(three: Remote) -> None:
    dataset = hw.StreamingDataset({"latents": three.source("latents")})
    three.delete("latents/1.pt")
    with pytest.raises(hw.NotFoundError) as error:
        dataset[1]
    assert_tells(error, three.uri("latents/1.pt"))
    assert torch.equal(dataset[2]["latents"], torch.full((4, 8), 2.0))


@pytest.mark.parametrize("shape", [(4, 8), (4, 800)], ids=["same size", "larger"])
def test_an_object_replaced_after_listing_is_noticed(three: Remote, shape: tuple[int, int]) -> None:
    dataset = hw.StreamingDataset({"latents": three.source("latents")})
    three.put("latents/1.pt", stored(torch.full(shape, 9.0)))
    with pytest.raises(hw.ObjectChangedError) as error:
        dataset[1]
    assert_tells(error, three.uri("latents/1.pt"), "on_changed")


@pytest.mark.parametrize("shape", [(4, 8), (4, 800), (1, 2)], ids=["same size", "larger", "smaller"])
def test_an_object_replaced_after_listing_is_read_anew_on_request(three: Remote, shape: tuple[int, int]) -> None:
    dataset = hw.StreamingDataset({"latents": three.source("latents")}, on_changed="reload")
    three.put("latents/1.pt", stored(torch.full(shape, 9.0)))
    assert torch.equal(dataset[1]["latents"], torch.full(shape, 9.0))
    assert torch.equal(dataset[0]["latents"], torch.full((4, 8), 0.0))


def test_a_damaged_object_is_named(three: Remote) -> None:
    whole = stored(torch.full((4, 8), 1.0))
    three.put("latents/1.pt", whole[: len(whole) // 2])
    dataset = hw.StreamingDataset({"latents": three.source("latents")})
    with pytest.raises(hw.CorruptDataError) as error:
        dataset[1]
    assert_tells(error, three.uri("latents/1.pt"))


def test_keys_that_cannot_be_named_are_passed_over_and_counted(three: Remote, caplog: pytest.LogCaptureFixture) -> None:
    for key in ("latents//a.pt", "latents/../b.pt", "latents/./c.pt"):
        three.put(key, stored(torch.zeros(1)))
    with caplog.at_level(logging.WARNING, "headwater"):
        assert len(hw.StreamingDataset({"latents": three.source("latents")})) == 3
    assert "passed over 3 objects" in caplog.text
    assert three.uri("latents") in caplog.text


@pytest.mark.slow
def test_an_unreachable_endpoint_is_unavailable(remote: Remote) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused, and nobody else can take it
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(hw.HeadwaterError) as error:
            hw.StreamingDataset({"latents": remote.source("latents", endpoint=endpoint)})
    assert isinstance(error.value, hw.UnavailableError | hw.DeadlineError)
    assert_tells(error, remote.uri("latents"), endpoint)
    assert remote.server["secret_access_key"] not in str(error.value)


def test_an_object_without_a_partner_is_named(three: Remote) -> None:
    three.put("conditions/0.pt", stored(torch.zeros(1)))
    three.put("conditions/2.pt", stored(torch.zeros(1)))
    fields = {"latents": three.source("latents"), "conditions": three.source("conditions")}
    with pytest.raises(hw.HeadwaterError, match="conditions") as error:
        hw.StreamingDataset(fields)
    assert "1" in str(error.value)
    assert len(hw.StreamingDataset(fields, on_missing="skip")) == 2


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3"])
def test_the_endpoint_may_come_from_the_environment(three: Remote, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, three.server["endpoint"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", three.server["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", three.server["secret_access_key"])
    monkeypatch.setenv("AWS_REGION", three.server["region"])
    assert len(hw.StreamingDataset(three.uri("latents"))) == 3
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    for option in ("endpoint", "endpoint_url", "aws_endpoint_url_s3"):
        place = hw.Source(three.uri("latents"), **{option: three.server["endpoint"]})
        assert len(hw.StreamingDataset(place)) == 3


@pytest.mark.parametrize("path_style", [True, "1", "YES"])
def test_path_style_is_read_as_people_write_it(three: Remote, path_style: Any) -> None:
    assert len(hw.StreamingDataset(three.source("latents", path_style=path_style))) == 3
    with pytest.raises(hw.HeadwaterError):
        hw.StreamingDataset(three.source("latents", path_style="0"))  # the bucket is then thought to be in the host's name
