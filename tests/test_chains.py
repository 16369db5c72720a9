"""Chains of credentials against stubs of the services they ask: objects are read with what those gave, asked for once."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

import headwater as hw
from conftest import absent
from servers import testkit, tokens
from servers.tokens import Asked, Break, Silence

SAMPLES = 32
HOUR = timedelta(hours=1)
KEYS = {"AccessKeyId": "KEY1", "SecretAccessKey": "hunter2"}
# Little patience, for tests of what does not come back.
SHORT = hw.FetchConfig(deadline="2s", retries=2)
OURS = ("AWS_", "GOOGLE_", "GCE_", "AZURE_", "AZBLOB_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_")


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user who has no credentials anywhere, on a machine without a metadata service."""
    for name in os.environ:
        if name.upper().startswith(OURS):
            monkeypatch.delenv(name)
    home = tmp_path / "nobody"
    (home / "bin").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("PATH", str(home / "bin"))
    # A proxy that is not there: nor is then what would be asked through it.
    set_all(monkeypatch, {"HTTP_PROXY": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "127.0.0.1"})
    return home


@pytest.fixture
def openssl(monkeypatch: pytest.MonkeyPatch, nobody: Path) -> None:
    program = shutil.which("openssl", path=os.defpath)
    if program is None:
        absent("no openssl")
    else:
        (nobody / "bin/openssl").symlink_to(program)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chains")
    (folder / "x").mkdir()
    for sample in range(SAMPLES):
        torch.save({"value": torch.full((3,), float(sample))}, folder / f"x/{sample:02}.pt")
    return folder


@pytest.fixture
def server(folder: Path, fault_servers: Callable[[Path], testkit.Testkit]) -> testkit.Testkit:
    return fault_servers(folder)


def set_all(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def opened(server: testkit.Testkit, kind: str, fetch: hw.FetchConfig | None = None, **options: str) -> hw.StreamingDataset:
    source = hw.Source(server.uri(kind, "x"), **server.options(kind), **options)
    return hw.StreamingDataset({"x": source}, fetch=fetch, cache=hw.CacheConfig(memory=0))


def read(server: testkit.Testkit, kind: str, *words: str, **options: str) -> None:
    """Reads two objects from a server that takes no other credentials than those with these words."""
    server.expect(*words)
    dataset = opened(server, kind, **options)
    assert [float(sample["x"]["value"][0]) for sample in dataset[[0, 1]]] == [0.0, 1.0]


def keys(session: str = "SESSION1", expires: timedelta = HOUR, **other: str) -> dict[str, str]:
    """Temporary keys as AWS gives them."""
    return {**KEYS, "Token": session, "Expiration": (datetime.now(UTC) + expires).strftime("%Y-%m-%dT%H:%M:%SZ"), **other}


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


# ---- AWS


def test_container_credentials(server: testkit.Testkit, monkeypatch: pytest.MonkeyPatch) -> None:
    with tokens.serving(lambda asked: (200, keys())) as service:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.url}/v2/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "agent")
        read(server, "s3", "KEY1", "SESSION1")
    assert [(asked.path, asked.headers["authorization"]) for asked in service.asked] == [("/v2/credentials", "agent")]


def instance(asked: Asked) -> tokens.Answer:
    """EC2's metadata service, version 2, and Google's."""
    answers: dict[tuple[str, str], object] = {
        ("PUT", "/latest/api/token"): "session-of-imds",
        ("GET", "/latest/meta-data/iam/security-credentials/"): "role",
        ("GET", "/latest/meta-data/iam/security-credentials/role"): keys(Code="Success"),
    }
    answer = answers.get((asked.method, asked.path))
    is_known = asked.method == "PUT" or asked.headers.get("x-aws-ec2-metadata-token") == "session-of-imds"
    return (200, answer) if answer is not None and is_known else (404, "")


@pytest.mark.parametrize("is_named", [True, False])
def test_instance_metadata(server: testkit.Testkit, monkeypatch: pytest.MonkeyPatch, is_named: bool) -> None:
    with tokens.serving(instance) as service:
        named = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": service.url}
        set_all(monkeypatch, named if is_named else service.environment)
        read(server, "s3", "KEY1", "SESSION1")
    assert [asked.method for asked in service.asked] == ["PUT", "GET", "GET"]
    assert {asked.host for asked in service.asked} == {"127.0.0.1" if is_named else "169.254.169.254"}


def test_credential_process_of_a_profile(server: testkit.Testkit, nobody: Path) -> None:
    given = json.dumps({"Version": 1, **KEYS, "SessionToken": "SESSION1", "Expiration": keys()["Expiration"]})
    program = written(nobody / "vault", f"#!/bin/sh\necho asked \"$@\" >> {nobody}/asked\necho '{given}'\n", 0o700)
    written(nobody / ".aws/config", f"[profile mine]\nregion = eu-west-1\ncredential_process = {program} --role train\n")
    read(server, "s3", "KEY1", "SESSION1", profile="mine")
    assert (nobody / "asked").read_text() == "asked --role train\n"


def test_single_sign_on_of_a_profile(server: testkit.Testkit, nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    role = {"accessKeyId": "KEY1", "secretAccessKey": "hunter2", "sessionToken": "SESSION1"}
    expires = datetime.now(UTC) + HOUR
    answer = {"roleCredentials": {**role, "expiration": int(expires.timestamp() * 1000)}}
    start = "https://start.example"
    profile = f"[default]\nsso_start_url = {start}\nsso_region = eu-west-1\nsso_account_id = 12\nsso_role_name = train\n"
    written(nobody / ".aws/config", profile)
    cached = {"accessToken": "signed-on", "expiresAt": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}
    written(nobody / f".aws/sso/cache/{hashlib.sha1(start.encode()).hexdigest()}.json", json.dumps(cached))
    with tokens.serving(lambda asked: (200, answer)) as service:
        monkeypatch.setenv("AWS_SSO_ENDPOINT", f"{service.url}/federation/credentials")
        read(server, "s3", "KEY1", "SESSION1")
    (asked,) = service.asked
    assert asked.parameters == {"role_name": "train", "account_id": "12"}
    assert asked.headers["x-amz-sso_bearer_token"] == "signed-on"


@pytest.mark.usefixtures("openssl")
def test_web_identity(server: testkit.Testkit, nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = "".join(f"<{name}>{value}</{name}>" for name, value in {**keys(), "SessionToken": "SESSION1"}.items())
    result = f"<AssumeRoleWithWebIdentityResult><Credentials>{given}</Credentials></AssumeRoleWithWebIdentityResult>"
    answer = f"<AssumeRoleWithWebIdentityResponse>{result}</AssumeRoleWithWebIdentityResponse>"
    with tokens.serving(lambda asked: (200, answer), tokens.disguised(nobody, "sts.amazonaws.com")) as service:
        set_all(monkeypatch, service.environment)
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::12:role/train")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(written(nobody / "token", "projected\n")))
        read(server, "s3", "KEY1", "SESSION1")
    (asked,) = service.asked
    assert asked.host == "sts.amazonaws.com"
    assert "WebIdentityToken=projected" in asked.body


# ---- Google


def google(asked: Asked) -> tokens.Answer:
    """Its token endpoint: a token that tells who asked for it, and for what."""
    if asked.path.startswith("/computeMetadata/") and asked.headers.get("metadata-flavor") == "Google":
        return 200, {"access_token": f"vm-{asked.parameters['scopes'].rpartition('.')[2]}", "expires_in": 3600}
    if asked.path == "/token" and "jwt-bearer" in asked.body:
        claims = asked.body.rpartition("assertion=")[2].split(".")[1]
        scope = json.loads(base64.urlsafe_b64decode(claims + "=="))["scope"].rpartition(".")[2]
        return 200, {"access_token": f"account-{scope}", "expires_in": 3600}
    if asked.path == "/token" and "remembered" in asked.body:
        return 200, {"access_token": "user-token", "expires_in": 3600}
    return 400, {"error": "invalid_grant"}


@pytest.fixture
def google_tokens(openssl: None, nobody: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tokens.TokenService]:
    with tokens.serving(google, tokens.disguised(nobody, "oauth2.googleapis.com")) as service:
        set_all(monkeypatch, service.environment)
        yield service


@pytest.fixture
def service_account(openssl: None, nobody: Path) -> Path:
    account = {"type": "service_account", "client_email": "train@project", "private_key": tokens.rsa_key()}
    return written(nobody / "account.json", json.dumps(account))


@pytest.mark.parametrize("how", ["environment", "path", "content", "base64"])
def test_service_account(
    server: testkit.Testkit,
    google_tokens: tokens.TokenService,
    service_account: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    content = service_account.read_text()
    options = {
        "path": {"service_account": str(service_account)},
        "content": {"service_account_key": content},
        "base64": {"service_account_key": base64.b64encode(content.encode()).decode()},
    }
    if how == "environment":
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(service_account))
    read(server, "gs", "account-read_only", **options.get(how, {}))
    assert [asked.host for asked in google_tokens.asked] == ["oauth2.googleapis.com"]


def test_credentials_that_gcloud_wrote(server: testkit.Testkit, google_tokens: tokens.TokenService, nobody: Path) -> None:
    user = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "remembered"}
    written(nobody / ".config/gcloud/application_default_credentials.json", json.dumps(user))
    read(server, "gs", "user-token")
    assert [asked.host for asked in google_tokens.asked] == ["oauth2.googleapis.com"]


@pytest.mark.parametrize("is_named", [True, False])
def test_metadata_server(server: testkit.Testkit, monkeypatch: pytest.MonkeyPatch, is_named: bool) -> None:
    with tokens.serving(google) as service:
        set_all(monkeypatch, {"GCE_METADATA_HOST": service.address} if is_named else service.environment)
        read(server, "gs", "vm-read_only")
    assert [asked.host for asked in service.asked] == ["127.0.0.1" if is_named else "metadata.google.internal"]


def test_only_what_is_published_is_asked_for_with_a_right_to_write(
    server: testkit.Testkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tokens.serving(google) as service:
        monkeypatch.setenv("GCE_METADATA_HOST", service.address)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
        fields = {"x": hw.Source(server.uri("gs", "x"), endpoint=server.gcs)}
        options = {"gs": {"endpoint": server.gcs}}
        hw.StreamingDataset(fields, storage_options=options, manifest=server.uri("gs", "published.manifest"))
    scopes = [asked.parameters["scopes"].rpartition(".")[2] for asked in service.asked]
    assert scopes.count("read_write") == 1
    assert scopes[0] == "read_only"


# ---- Azure


def azure_token(asked: Asked) -> tokens.Answer:
    expires = str(int((datetime.now(UTC) + HOUR).timestamp()))
    return 200, {"access_token": "azure-token", "expires_in": 3600, "expires_on": expires, "token_type": "Bearer"}


@pytest.mark.parametrize("is_named", [True, False])
def test_managed_identity(server: testkit.Testkit, monkeypatch: pytest.MonkeyPatch, is_named: bool) -> None:
    with tokens.serving(azure_token) as service:
        path = "/metadata/identity/oauth2/token"
        set_all(monkeypatch, {"AZURE_IMDS_ENDPOINT": f"{service.url}{path}"} if is_named else service.environment)
        read(server, "az", "azure-token")
    (asked,) = service.asked
    assert (asked.path, asked.headers["metadata"]) == (path, "true")
    assert asked.parameters["resource"] == "https://storage.azure.com/"


def test_workload_identity(server: testkit.Testkit, nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tokens.serving(azure_token) as service:
        federated = str(written(nobody / "token", "projected\n"))
        who = {"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client", "AZURE_FEDERATED_TOKEN_FILE": federated}
        set_all(monkeypatch, {**who, "AZURE_AUTHORITY_HOST": service.url})
        read(server, "az", "azure-token")
    (asked,) = service.asked
    assert asked.path == "/tenant/oauth2/v2.0/token"
    assert "client_assertion=projected" in asked.body


@pytest.mark.parametrize("how", ["environment", "options"])
def test_service_principal(server: testkit.Testkit, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    who = {"tenant_id": "tenant", "client_id": "client", "client_secret": "hunter2"}
    with tokens.serving(azure_token) as service:
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", service.url)
        if how == "environment":
            set_all(monkeypatch, {f"AZURE_{name.upper()}": value for name, value in who.items()})
        read(server, "az", "azure-token", **(who if how == "options" else {}))
    (asked,) = service.asked
    assert "client_secret=hunter2" in asked.body


def test_azure_cli(server: testkit.Testkit, nobody: Path) -> None:
    given = json.dumps({"accessToken": "azure-token", "expires_on": 4102444800, "tokenType": "Bearer"})
    written(nobody / "bin/az", f"#!/bin/sh\necho \"$@\" >> {nobody}/asked\necho '{given}'\n", 0o700)
    read(server, "az", "azure-token")
    asked = "account get-access-token --resource https://storage.azure.com/ --output json\n"
    assert (nobody / "asked").read_text() == asked


# ---- What goes wrong


class Once:
    """Answers with what goes wrong once, then as it should."""

    def __init__(self, wrong: tokens.Answer, answer: Callable[[Asked], tokens.Answer]) -> None:
        self.wrong: tokens.Answer | None = wrong
        self.answer = answer

    def __call__(self, asked: Asked) -> tokens.Answer:
        wrong, self.wrong = self.wrong, None
        return self.answer(asked) if wrong is None else wrong


@pytest.mark.parametrize("wrong", [(500, ""), (503, "busy"), (429, ""), (408, ""), Break])
def test_a_token_service_that_fails_once_is_asked_again(
    server: testkit.Testkit, monkeypatch: pytest.MonkeyPatch, wrong: tokens.Answer
) -> None:
    with tokens.serving(Once(wrong, lambda asked: (200, keys()))) as service:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", service.url)
        read(server, "s3", "KEY1", "SESSION1")
    assert len(service.asked) == 2


def test_no_other_credentials_are_used_while_a_named_service_is_down(
    server: testkit.Testkit, nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = json.dumps({"accessToken": "somebody-else", "expires_on": 4102444800, "tokenType": "Bearer"})
    written(nobody / "bin/az", f"#!/bin/sh\necho '{given}'\n", 0o700)
    federated = str(written(nobody / "token", "projected\n"))
    with tokens.serving(Once((503, ""), azure_token)) as service:
        who = {"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client", "AZURE_FEDERATED_TOKEN_FILE": federated}
        set_all(monkeypatch, {**who, "AZURE_AUTHORITY_HOST": service.url})
        read(server, "az", "azure-token")
    assert len(service.asked) == 2


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_service_that_refuses_is_asked_once(server: testkit.Testkit, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    with tokens.serving(lambda asked: (status, "no")) as service:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", service.url)
        with pytest.raises(hw.AccessDeniedError, match=r"there are no credentials .*container credentials"):
            opened(server, "s3")
    assert len(service.asked) == 1


def test_what_was_told_to_a_service_is_not_told_in_errors(server: testkit.Testkit, monkeypatch: pytest.MonkeyPatch) -> None:
    with tokens.serving(lambda asked: (403, f"not for {asked.headers['authorization']}")) as service:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", service.url)
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Bearer pl4ntedS3cret")
        with pytest.raises(hw.AccessDeniedError, match="ECS task not authorized") as error:
            opened(server, "s3")
    assert "pl4ntedS3cret" not in str(error.value)


def test_a_service_that_is_not_reached_is_named(server: testkit.Testkit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/credentials")
    with pytest.raises(hw.UnavailableError, match=r"container credentials: .*127\.0\.0\.1:1 cannot be reached"):
        opened(server, "s3", SHORT)


@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
def test_a_machine_without_a_metadata_service_has_no_credentials(server: testkit.Testkit, kind: str) -> None:
    with pytest.raises(hw.AccessDeniedError, match="there are no credentials"):
        opened(server, kind)


def test_a_metadata_service_that_has_answered_once_is_there(server: testkit.Testkit, monkeypatch: pytest.MonkeyPatch) -> None:
    # Valid, but not for so long that it could be used for the next read.
    answers: list[Callable[[Asked], tokens.Answer]] = [lambda asked: (200, {"access_token": "first", "expires_in": 12})]
    with tokens.serving(lambda asked: answers[-1](asked)) as service:  # noqa: PLW0108 - it changes
        set_all(monkeypatch, service.environment)
        dataset = opened(server, "gs")
        asked = len(service.asked)
        answers.append(Once(Break, google))
        time.sleep(3)
        assert float(dataset[3]["x"]["value"][0]) == 3.0
    assert len(service.asked) == asked + 2


def test_a_token_that_will_soon_expire_is_used_while_there_is_no_other(
    server: testkit.Testkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer: tokens.Answer = (200, {"access_token": "first", "expires_in": 60})
    with tokens.serving(lambda asked: answer) as service:
        set_all(monkeypatch, service.environment)
        dataset = opened(server, "gs")
        asked = len(service.asked)
        for sample in range(4):
            assert float(dataset[sample]["x"]["value"][0]) == sample
    assert len(service.asked) - asked <= 1, "and nobody is asked for every read"


def test_a_service_that_never_answers_is_named_within_the_deadline(
    server: testkit.Testkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = hw.FetchConfig(deadline="600ms")
    with tokens.serving(lambda asked: Silence) as service:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", service.url)
        with pytest.raises((hw.DeadlineError, hw.UnavailableError), match=f"{service.address} did not answer within 0.3 s"):
            opened(server, "s3", fetch)


# ---- Many at once


@pytest.mark.parametrize("told_by", ["the token", "the server"])
def test_many_reads_with_an_expired_token_ask_for_one_together(
    server: testkit.Testkit, monkeypatch: pytest.MonkeyPatch, told_by: str
) -> None:
    # Valid, but not for so long that it would be kept for the next request.
    answers = [keys("SESSION1", timedelta(minutes=1) if told_by == "the token" else HOUR)]
    with tokens.serving(lambda asked: (200, answers[-1])) as service:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", service.url)
        server.expect("SESSION1")
        dataset = opened(server, "s3")
        asked = len(service.asked)
        answers.append(keys("SESSION2"))
        server.expect("SESSION2")
        samples = dataset[list(range(SAMPLES))]
    assert [float(sample["x"]["value"][0]) for sample in samples] == [float(sample) for sample in range(SAMPLES)]
    assert len(service.asked) == asked + 1


def test_many_requests_share_the_token_of_one_service_account(
    server: testkit.Testkit, google_tokens: tokens.TokenService, service_account: Path
) -> None:
    dataset = opened(server, "gs", service_account=str(service_account))
    assert len(dataset[list(range(SAMPLES))]) == SAMPLES
    assert len(google_tokens.asked) == 1
