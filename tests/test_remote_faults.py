"""What a user sees when a remote misbehaves: an error that says how, never data that is not there. And what settings do."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headwater as hw
from same import assert_same
from servers.testkit import KINDS, Testkit
from waiting import until

VALUE = torch.arange(1000.0)
# A commit of the Hub holds what it held.
MUTABLE_KINDS = [kind for kind in KINDS if kind != "hf"]


@pytest.fixture
def server(tmp_path: Path, fault_servers: Callable[[Path], Testkit]) -> Testkit:
    (tmp_path / "x").mkdir()
    torch.save(VALUE, tmp_path / "x/a.pt")
    return fault_servers(tmp_path)


def opened(server: Testkit, kind: str = "s3", **fetch: Any) -> hw.StreamingDataset:
    return hw.StreamingDataset({"x": server.source(kind, "x")}, fetch=hw.FetchConfig(**{"retries": 1, **fetch}))


def assert_recovers(server: Testkit, dataset: hw.StreamingDataset) -> None:
    server.clear()
    assert torch.equal(dataset[0]["x"], VALUE)


def requests_of(server: Testkit) -> int:
    """Requests for bytes of objects."""
    return server.stats()["get"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["truncate", "short-length", "cut"])
def test_a_body_that_is_too_short_is_said_to_be(server: Testkit, tmp_path: Path, kind: str, fault: str) -> None:
    dataset = opened(server, kind)
    server.fault(fault)
    with pytest.raises(hw.HeadwaterError) as error:
        dataset[0]
    assert isinstance(error.value, hw.UnavailableError | hw.ObjectChangedError)
    text = str(error.value)
    assert "x/a.pt" in text
    size = (tmp_path / "x/a.pt").stat().st_size
    assert str(size // 2 if fault != "short-length" else size - 10) in text
    assert "Content-Range" not in text
    assert len(text) < 600
    assert_recovers(server, dataset)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("status=503", {"s3": "SlowDown", "az": "ServerBusy"}),
        ("status=500", {"az": "InternalError"}),
        ("error-page", dict.fromkeys(MUTABLE_KINDS, "the database of this shop")),
        ("reset-before", {}),
        ("redirect-loop", {}),
    ],
    ids=["503", "500", "error page", "reset", "redirect loop"],
)
def test_a_server_that_fails_is_tried_again_and_then_unavailable(
    server: Testkit, kind: str, fault: str, words: dict[str, str]
) -> None:
    dataset = opened(server, kind)
    before = requests_of(server)
    server.fault(fault)
    with pytest.raises(hw.UnavailableError) as error:
        dataset[0]
    if not (fault == "redirect-loop" and kind in ("hf", "http")):  # those follow it for a while
        assert requests_of(server) - before == 2
    assert dataset.stats()["source_retries_total"] == 1
    text = str(error.value)
    assert "x/a.pt" in text
    assert "the last of 2 attempts" in text
    assert words.get(kind, "") in text
    assert server.endpoint in text
    assert len(text) < 600
    assert_recovers(server, dataset)


@pytest.mark.parametrize("kind", KINDS)
def test_failures_that_pass_are_not_seen(server: Testkit, kind: str) -> None:
    dataset = opened(server, kind)
    for rule in ("status=503", "reset-mid", "truncate"):
        server.fault(f"{rule},times=1")
        assert torch.equal(dataset[0]["x"], VALUE)
    assert server.stats()["faults"] == 3
    assert dataset.stats()["source_retries_total"] == 3
    assert dataset.stats()["source_errors_total"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_that_stalls_is_given_up(server: Testkit, kind: str) -> None:
    dataset = opened(server, kind, no_progress_timeout="200ms")
    server.fault("stall-mid")
    with pytest.raises(hw.DeadlineError, match="nothing came for too long") as error:
        dataset[0]
    assert "x/a.pt" in str(error.value)
    assert_recovers(server, dataset)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fault", "words"), [("login-page,on=list", "<html><h1>Log in"), ("cut,on=list", "")])
def test_what_is_no_listing_is_no_empty_place(server: Testkit, kind: str, fault: str, words: str) -> None:
    server.fault(fault)
    with pytest.raises(hw.UnavailableError) as error:
        opened(server, kind)
    text = str(error.value)
    assert "cannot list" in text
    assert "/x`" in text
    assert "the answer is no listing" in text
    assert words in text
    assert len(text) < 600


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_where_an_object_should_be_is_no_object(server: Testkit, kind: str) -> None:
    dataset = opened(server, kind, retries=0)
    server.fault("login-page")
    with pytest.raises((hw.UnavailableError, hw.ObjectChangedError), match=r"x/a\.pt"):
        dataset[0]
    assert_recovers(server, dataset)


@pytest.mark.parametrize("kind", MUTABLE_KINDS)
def test_an_object_that_is_replaced_is_noticed_or_read_anew_on_request(server: Testkit, kind: str, tmp_path: Path) -> None:
    strict = opened(server, kind)
    lenient = hw.StreamingDataset({"x": server.source(kind, "x")}, on_changed="reload")
    torch.save(VALUE + 1, tmp_path / "x/a.pt")
    server.put("x/a.pt", (tmp_path / "x/a.pt").read_bytes())
    with pytest.raises(hw.ObjectChangedError, match="on_changed"):
        strict[0]
    assert torch.equal(lenient[0]["x"], VALUE + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_that_is_gone_is_not_found(server: Testkit, kind: str) -> None:
    dataset = opened(server, kind)
    server.fault("missing")
    with pytest.raises(hw.NotFoundError, match=r"x/a\.pt"):
        dataset[0]
    assert_recovers(server, dataset)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["denied", "expired"])
def test_a_refusal_names_the_credentials_that_were_used(server: Testkit, kind: str, fault: str) -> None:
    dataset = opened(server, kind)
    server.fault(fault)
    with pytest.raises(hw.AccessDeniedError, match="credentials used: ") as error:
        dataset[0]
    assert "the source's options" in str(error.value) or kind == "http"
    assert_recovers(server, dataset)


# ---- what each setting does


@pytest.mark.parametrize("retries", [0, 3])
def test_so_many_retries_are_one_request_more(server: Testkit, retries: int) -> None:
    dataset = opened(server, retries=retries)
    server.fault("status=503")
    with pytest.raises(hw.UnavailableError):
        dataset[0]
    assert requests_of(server) == retries + 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_deadline_ends_what_never_answers(server: Testkit, kind: str) -> None:
    dataset = opened(server, kind, deadline="500ms", retries=1000)
    server.fault("stall=1h")
    with pytest.raises(hw.DeadlineError, match="deadline") as error:
        dataset[0]
    assert "x/a.pt" in str(error.value)
    assert dataset.stats()["source_timeouts_total"] == 1
    assert_recovers(server, dataset)


def test_the_deadline_ends_what_fails_again_and_again(server: Testkit) -> None:
    dataset = opened(server, deadline="1s", retries=1000)
    server.fault("status=500")
    with pytest.raises((hw.UnavailableError, hw.DeadlineError), match="InternalError"):
        dataset[0]
    assert requests_of(server) < 100


@pytest.mark.parametrize("kind", KINDS)
def test_a_host_that_accepts_nobody_is_given_up_after_the_time_for_a_connection(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as waiting:
        port = full.getsockname()[1]

        def crowded() -> bool:
            """Whether one more connection finds no place to wait."""
            one = waiting.enter_context(socket.socket())
            one.settimeout(0.05)
            return one.connect_ex(("127.0.0.1", port)) != 0

        until(crowded, "the queue fills up")
        place = f"http://127.0.0.1:{port}"
        uri = {"http": f"{place}/x", "hf": "hf://datasets/org/name"}.get(kind, f"{kind}://bucket/x")
        options = {} if kind == "http" else {"endpoint": place, "anonymous": True}
        fetch = hw.FetchConfig(connect_timeout="100ms", retries=0)
        with pytest.raises((hw.UnavailableError, hw.DeadlineError)) as error:
            hw.StreamingDataset({"x": hw.Source(uri, **options)}, fetch=fetch)
        assert f"127.0.0.1:{port}" in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", [None, "whole-for-range,times=2", "wrong-range,times=2"])
def test_large_objects_are_read_in_parts_and_come_out_right(server: Testkit, kind: str, fault: str | None) -> None:
    whole, parts = opened(server, kind, part_size=0), opened(server, kind, part_size=512)
    assert torch.equal(whole[0]["x"], VALUE)
    before = requests_of(server)
    if fault:
        server.fault(fault)
    assert torch.equal(parts[0]["x"], VALUE)
    if fault:
        assert server.stats()["faults"] > 0
    else:
        assert requests_of(server) - before > 4
        assert parts.stats()["source_reads_in_parts_total"] == 1
    assert whole.stats()["source_reads_in_parts_total"] == 0


@pytest.fixture
def many(tmp_path: Path, fault_servers: Callable[[Path], Testkit]) -> Testkit:
    """So many small samples that their usual time is known."""
    (tmp_path / "x").mkdir()
    for number in range(120):
        np.save(tmp_path / f"x/{number:04}.npy", np.full(50, number))
    return fault_servers(tmp_path)


def test_a_second_request_outruns_one_that_hangs(many: Testkit) -> None:
    dataset = opened(many, hedge=1.0, deadline="20s", retries=0)
    for index in range(100):
        dataset[index]
    many.fault("stall=1h,times=1")
    assert dataset[100]["x"].tolist() == [100] * 50
    stats = dataset.stats()
    assert stats["source_hedges_won_total"] >= 1


def test_without_hedges_nothing_is_asked_twice(many: Testkit) -> None:
    dataset = opened(many, hedge=0)
    for index in range(100):
        dataset[index]
    many.fault("stall=300ms,times=3")
    for index in range(100, 110):
        dataset[index]
    assert requests_of(many) == 110
    assert dataset.stats()["source_hedges_total"] == 0


def test_no_more_requests_are_under_way_than_allowed(many: Testkit) -> None:
    dataset = opened(many, max_concurrency=2, hedge=0)
    before = many.stats()["connections"]
    many.fault("stall=5ms")
    assert len(dataset[list(range(120))]) == 120
    assert many.stats()["connections"] - before <= 2
    assert dataset.stats()["fetch_concurrency"] <= 2


# The Hub names SHA-256, which is verified where the processor has instructions for it.
HAS_SHA = any(flag in Path("/proc/cpuinfo").read_text().split() for flag in ("sha_ni", "sha2"))


@pytest.mark.parametrize("kind", ["s3", "gs", *(["hf"] if HAS_SHA else [])])
def test_a_wrong_bit_is_noticed_unless_nothing_is_verified(
    tmp_path: Path, fault_servers: Callable[[Path], Testkit], kind: str
) -> None:
    (tmp_path / "x").mkdir()
    np.save(tmp_path / "x/a.npy", np.zeros(4000, dtype=np.uint8))
    server = fault_servers(tmp_path)
    careful, careless = opened(server, kind), opened(server, kind, verify="never")
    server.fault("flip")
    with pytest.raises(hw.UnavailableError, match="the bytes were damaged on their way"):
        careful[0]
    assert sorted(careless[0]["x"].tolist())[-2:] == [0, 1]
    server.clear()
    server.fault("flip,times=1")
    assert not careful[0]["x"].any()


def test_what_has_only_a_time_is_never_joined_from_parts_and_a_change_is_noticed(
    tmp_path: Path, fault_servers: Callable[[Path], Testkit]
) -> None:
    (tmp_path / "x").mkdir()
    value = np.arange(40_000) % 100
    np.save(tmp_path / "x/a.npy", value)
    server = fault_servers(tmp_path)
    # Tags that are weak say nothing of bytes.
    for asked in ("get", "head"):
        server.fault(f'rewrite="=>W/",on={asked}')
    dataset = opened(server, "http", part_size=4096)
    assert_same(dataset[0]["x"], torch.from_numpy(value))
    assert dataset.stats()["source_reads_in_parts_total"] == 0
    time.sleep(1.1)  # times have seconds
    np.save(tmp_path / "x/a.npy", value + 1)
    server.put("x/a.npy", (tmp_path / "x/a.npy").read_bytes())
    with pytest.raises(hw.ObjectChangedError, match="it was replaced"):
        dataset[0]


def test_a_bandwidth_changes_nothing_of_what_arrives(many: Testkit) -> None:
    dataset = opened(many, max_bandwidth="10MB", throttle=hw.Throttle(first_byte="1ms", stream_rate="50MB"))
    assert [sample["x"][0].item() for sample in dataset[list(range(120))]] == list(range(120))


@pytest.mark.parametrize(
    "setting",
    [
        {"max_concurrency": 0},
        {"deadline": 0},
        {"connect_timeout": "0s"},
        {"no_progress_timeout": 0},
        {"max_bandwidth": 0},
        {"hedge": 2.0},
        {"hedge": -1},
        {"throttle": hw.Throttle(stream_rate=0)},
        {"retries": -1},
        {"part_size": "much"},
        {"verify": "sometimes"},
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_meant_is_named(server: Testkit, setting: dict[str, Any]) -> None:
    with pytest.raises(hw.ConfigError, match=next(iter(setting))):
        opened(server, **setting)


def test_endpoints_of_the_environment_are_told_apart(
    tmp_path: Path, fault_servers: Callable[[Path], Testkit], monkeypatch: pytest.MonkeyPatch
) -> None:
    for samples in (2, 3):
        folder = tmp_path / str(samples)
        (folder / "x").mkdir(parents=True)
        for sample in range(samples):
            torch.save(VALUE, folder / "x" / f"{sample}.pt")
        server = fault_servers(folder)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        place = hw.Source(server.uri("s3", "x"), region=server.region, anonymous=True)
        assert len(hw.StreamingDataset({"x": place})) == samples
