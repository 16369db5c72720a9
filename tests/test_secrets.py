"""A planted secret is nowhere but where it was put: not in errors, representations, counts, logs or pickles."""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import secrets
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch

import headwater as hw
from servers.testkit import Testkit

# What becomes of a server after the dataset was opened; `{}` is healthy.
TROUBLES = {
    "healthy": [],
    "denies": ["denied,on=any"],
    "says expired": ["expired,on=any"],
    "resets": ["reset-before,on=any"],
    "redirects": ["redirect-loop,on=any"],
    "sends pages": ["login-page,on=any"],
    "sends an error page": ["error-page,on=any"],
    "lies": ["short-length"],
}
FETCH = hw.FetchConfig(retries=1, deadline="10s")
NOTHING_KEPT = hw.CacheConfig(memory=0)


@dataclass(frozen=True)
class Planted:
    """A source with a secret in it."""

    secret: str
    uri: str
    options: dict[str, str]

    @property
    def source(self) -> hw.Source:
        return hw.Source(self.uri, **self.options)

    def assert_absent(self, *texts: str | bytes) -> None:
        """Fails if any text holds the secret, also as headers and URLs write it."""
        forms = {self.secret, quote(self.secret, safe="")}
        forms |= {base64.b64encode(text.encode()).decode() for text in (self.secret, f"user:{self.secret}")}
        for text in texts:
            found = text if isinstance(text, bytes) else text.encode()
            for form in forms:
                assert form.encode() not in found


def random_text() -> str:
    """Nothing that stands anywhere by chance; with what URLs and headers write in another way."""
    return f"planted+{secrets.token_hex(12)}/{secrets.token_hex(4)}=="


def random_key() -> str:
    """A key as Azure's are."""
    return base64.b64encode(secrets.token_bytes(64)).decode()


def with_option(kind: str, name: str, make: Callable[[], str] = random_text, **beside: str) -> Callable[[Testkit], Planted]:
    def planted(server: Testkit) -> Planted:
        secret = make()
        return Planted(secret, server.uri(kind, "run"), {**server.options(kind), **beside, name: secret})

    return planted


def sas_token(server: Testkit) -> Planted:
    signature = random_text()
    token = f"sv=2021-12-02&sr=c&sp=rl&sig={quote(signature, safe='')}"
    return Planted(signature, server.uri("az", "run"), {**server.options("az"), "sas_token": token})


def in_userinfo(server: Testkit) -> Planted:
    secret = random_text()
    uri = server.uri("http", "run").replace("http://", f"http://user:{quote(secret, safe='')}@")
    return Planted(secret, uri, {})


def in_endpoint(server: Testkit) -> Planted:
    secret = random_text()
    endpoint = server.endpoint.replace("http://", f"http://user:{quote(secret, safe='')}@")
    options = {**server.options("s3"), "endpoint": endpoint, "anonymous": "true"}
    return Planted(secret, server.uri("s3", "run"), options)


PLACES: dict[str, Callable[[Testkit], Planted]] = {
    "S3 secret": with_option("s3", "secret_access_key", access_key_id="AKIAEXAMPLE"),
    "S3 key": with_option("s3", "access_key_id", secret_access_key="other"),
    "S3 session token": with_option("s3", "token", access_key_id="AKIAEXAMPLE", secret_access_key="other"),
    "GCS token": with_option("gs", "token"),
    "Azure key": with_option("az", "access_key", random_key, account="devstoreaccount1"),
    "Azure token": with_option("az", "token"),
    "SAS token": sas_token,
    "HF token": with_option("hf", "token"),
    "HTTP token": with_option("http", "token"),
    "HTTP password": with_option("http", "password", user="user"),
    "userinfo": in_userinfo,
    "userinfo of the endpoint": in_endpoint,
}


@pytest.fixture
def server(tmp_path: Path, fault_servers: Callable[[Path], Testkit]) -> Testkit:
    """Three samples, one of them large enough for parts and, on the Hub, for a redirect."""
    (tmp_path / "run").mkdir()
    for number in range(3):
        torch.save(torch.arange(2000.0) + number, tmp_path / f"run/{number}.pt")
    return fault_servers(tmp_path)


def told(error: BaseException) -> str:
    """All that a traceback would show."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.args)


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_shows_in_nothing_that_a_dataset_says(server: Testkit, place: str, caplog: pytest.LogCaptureFixture) -> None:
    planted = PLACES[place](server)

    def opened() -> hw.StreamingDataset:
        return hw.StreamingDataset({"x": planted.source}, fetch=FETCH, cache=NOTHING_KEPT, manifest_max_age=0)

    with caplog.at_level(logging.DEBUG):
        dataset = opened()
        with hw.StreamingDataLoader(dataset) as loader:
            said = [repr(planted.source), repr(dataset), repr(loader), repr(loader.stats()), repr(loader.state_dict())]
            assert len(list(loader)) == 3
        for rules in TROUBLES.values():
            server.clear()
            for rule in rules:
                server.fault(rule)
            for use in (lambda: dataset[0], opened):
                try:
                    use()
                    assert rules in ([], ["short-length"]), "nobody noticed"
                except hw.HeadwaterError as error:
                    said.append(told(error))
        server.clear()
        server.kill()
        for use in (lambda: dataset[0], opened):
            with pytest.raises(hw.HeadwaterError) as down:
                use()
            said.append(told(down.value))
    said.append(repr(dataset.stats()))
    planted.assert_absent(*said, caplog.text)
    assert server.stats()["tokens_leaked"] == 0


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_is_not_pickled_and_the_refusal_does_not_tell_it(server: Testkit, place: str) -> None:
    planted = PLACES[place](server)
    for secretive in (planted.source, hw.StreamingDataset({"x": planted.source}), [planted.source, "s3://other"]):
        with pytest.raises(hw.ConfigError, match="credentials") as refused:
            pickle.dumps(secretive)
        planted.assert_absent(told(refused.value))


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_is_not_kept_on_disk(server: Testkit, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "home"))
    planted = PLACES[place](server)
    with hw.StreamingDataLoader(hw.StreamingDataset({"x": planted.source})) as loader:
        next(iter(loader))
    kept = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert kept
    planted.assert_absent(*(path.read_bytes() for path in kept), *(str(path) for path in kept))


@pytest.mark.parametrize(
    ("kind", "name", "beside"),
    [
        ("s3", "secret_access_key", {"access_key_id": "AKIAEXAMPLE"}),
        ("gs", "token", {}),
        ("az", "token", {}),
        ("az", "sas_token", {}),
        ("hf", "token", {}),
        ("http", "token", {}),
    ],
)
def test_what_a_function_gives_shows_in_nothing_that_a_dataset_says(
    server: Testkit, kind: str, name: str, beside: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    planted = Planted(random_text(), server.uri(kind, "run"), server.options(kind))
    given = quote(planted.secret, safe="=&") if name == "sas_token" else planted.secret
    source = hw.Source(planted.uri, credentials=lambda: {**beside, name: given}, **planted.options)
    with caplog.at_level(logging.DEBUG):
        dataset = hw.StreamingDataset({"x": source}, fetch=FETCH, cache=NOTHING_KEPT)
        dataset[0]
        said = [repr(source), repr(dataset), repr(dataset.stats())]
        for rule in ("denied", "expired", "reset-before", "redirect-loop"):
            server.clear()
            server.fault(rule)
            with pytest.raises(hw.HeadwaterError) as error:
                dataset[0]
            said.append(told(error.value))
    planted.assert_absent(*said, caplog.text)
    assert server.stats()["tokens_leaked"] == 0


def test_secrets_of_replicas_that_lie_or_are_down_do_not_show(server: Testkit, caplog: pytest.LogCaptureFixture) -> None:
    planted = {name: make(server) for name, make in PLACES.items()}
    server.fault("denied,on=any")
    with caplog.at_level(logging.DEBUG), pytest.raises(hw.HeadwaterError) as denied:
        hw.StreamingDataset({"x": [one.source for one in planted.values()]}, fetch=FETCH)
    server.clear()
    with caplog.at_level(logging.DEBUG):
        dataset = hw.StreamingDataset({"x": [one.source for one in planted.values()]}, fetch=FETCH)
        dataset[0]
        server.fault("flip")
        server.fault("reset-mid")
        server.kill()
        with pytest.raises(hw.HeadwaterError) as down:
            dataset[1]
    for one in planted.values():
        one.assert_absent(told(denied.value), told(down.value), caplog.text, repr(dataset.stats()))


@pytest.mark.parametrize(
    "uri",
    [
        "https://account.blob.core.windows.net/container?sv=1&sig={}",
        "az://container/run?sig={}",
        "s3://bucket/run?X-Amz-Signature={}",
        "gs://bucket/run?X-Goog-Signature={}",
        "hf://datasets/org/name?token={}",
        "http://127.0.0.1:1/run?token={}",
        "s3://AKIAEXAMPLE:{}@bucket/run",
        "gs://{}@bucket/run",
        "az://container:{}@account.blob.core.windows.net/run",
        "hf://user:{}@org/name",
        "https://{}@127.0.0.1:1/run",
        "ftp://user:{}@host/run",
        "s3:AKIAEXAMPLE:{}@bucket/run",
    ],
)
def test_a_secret_in_a_uri_that_cannot_be_meant_is_not_repeated(uri: str) -> None:
    secret = secrets.token_hex(16)
    source = hw.Source(uri.format(secret))
    said = [repr(source)]
    for place in (source, uri.format(secret), [source, "s3:nonsense"]):
        with pytest.raises(hw.HeadwaterError) as refused:
            hw.StreamingDataset({"x": place}, fetch=hw.FetchConfig(retries=0, connect_timeout="1s"))
        said.append(told(refused.value))
    with pytest.raises(hw.ConfigError) as unpickled:
        pickle.dumps(source)
    said.append(told(unpickled.value))
    assert secret not in "\n".join(said)


@pytest.mark.parametrize("options", [{"secret_access_key": ["{}"]}, {"tokn": "{}"}], ids=str)
def test_an_option_that_cannot_be_meant_does_not_tell_its_value(options: dict[str, Any], server: Testkit) -> None:
    secret = secrets.token_hex(16)
    filled = json.loads(json.dumps(options).replace("{}", secret))
    with pytest.raises(hw.ConfigError, match=next(iter(options))) as refused:
        hw.StreamingDataset({"x": hw.Source(server.uri("s3", "run"), **server.options("s3"), **filled)})
    assert secret not in told(refused.value)


CHILD = """
import json, logging, sys
logging.basicConfig(level=logging.DEBUG)
import headwater as hw
for place in json.load(sys.stdin):
    source = hw.Source(place["uri"], **place["options"])
    try:
        fetch = hw.FetchConfig(retries=1, deadline="5s")
        dataset = hw.StreamingDataset({"x": source}, fetch=fetch, manifest_max_age=0, framework="numpy")
        print(source, dataset, dataset[0]["x"].sum(), dataset.stats())
    except hw.HeadwaterError:
        logging.exception("it failed")
print("done")
"""


def ran(command: list[str], environment: dict[str, str], words: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a process to its end."""
    return subprocess.run(command, input=words, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_a_process_that_logs_everything_tells_no_secret(server: Testkit) -> None:
    planted = [make(server) for make in PLACES.values()]
    places = json.dumps([{"uri": one.uri, "options": one.options} for one in planted])
    environment = {**os.environ, "RUST_LOG": "trace", "RUST_BACKTRACE": "full"}
    for rules in ([], ["denied,on=any"], ["reset-before"], ["redirect-loop"], ["error-page,on=list"]):
        server.clear()
        for rule in rules:
            server.fault(rule)
        run = ran([sys.executable, "-c", CHILD], environment, places)
        assert run.returncode == 0, run.stderr
        assert run.stdout.endswith("done\n")
        for one in planted:
            one.assert_absent(run.stdout, run.stderr)


@pytest.mark.parametrize("trouble", ["healthy", "denies", "redirects"])
def test_the_command_that_logs_everything_tells_no_secret(server: Testkit, trouble: str) -> None:
    secret = random_text()
    for rule in TROUBLES[trouble]:
        server.fault(rule)
    environment = {
        **os.environ,
        "RUST_LOG": "trace",
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ENDPOINT_URL_S3": server.endpoint,
        "AWS_REGION": "test",
        "HF_TOKEN": secret,
        "HF_ENDPOINT": server.hub,
    }
    in_url = in_userinfo(server)
    for uri in (server.uri("s3", "run"), server.uri("hf", "run"), in_url.uri):
        run = ran([sys.executable, "-m", "headwater", "ls", "--json", uri], environment)
        assert (run.returncode == 0) == (trouble == "healthy"), run.stderr
        Planted(secret, "", {}).assert_absent(run.stdout, run.stderr)
        in_url.assert_absent(run.stdout, run.stderr)
