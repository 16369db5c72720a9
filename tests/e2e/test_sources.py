"""One dataset whose fields are in six kinds of places: what arrives is what was stored, however it is loaded."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import headwater as hw
from headwater.testing import assert_resumable
from same import assert_same
from servers.azurite import AzureServer, put_blob
from servers.fake_gcs import GcsServer, put_object
from servers.nginx import HttpServer
from servers.rgw import S3Server
from servers.testkit import Testkit

from .conftest import new_remote

pytestmark = pytest.mark.e2e

SAMPLES = 9
PAIRS = {
    "latents": "latent_*",
    "conditions": "condition_*",
    "motion": "*_motion",
    "depth": "depth_*",
    "masks": "mask-*",
    "captions": "*",
}
RENAMED = {"latents": "latent_conditions", "conditions": "text_conditions", "captions": "caption_embeddings"}


@dataclass(frozen=True)
class Places:
    """Where each field is, and the folder of the originals."""

    originals: Path
    sources: dict[str, hw.Source]
    testkit: Testkit

    def fields(self, *left_out: str, **other: Any) -> dict[str, Any]:
        """The sources by field, with others for some."""
        return {name: place for name, place in {**self.sources, **other}.items() if name not in left_out}

    def assert_is_what_was_stored(self, sample: dict[str, Any], renamed: dict[str, str] = RENAMED) -> None:
        """Compares every field with what `torch.load` makes of the original."""
        assert set(sample) == {renamed.get(name, name) for name in PAIRS} | {"__key__", "__index__"}
        for name, pattern in PAIRS.items():
            original = self.originals / name / f"{pattern.replace('*', sample['__key__'])}.pt"
            assert_same(sample[renamed.get(name, name)], torch.load(original, weights_only=True), name)


def value(field: str, number: int) -> dict[str, Any]:
    """A value that no other field and no other sample has."""
    salt = list(PAIRS).index(field) * 1000 + number
    return {
        "x": torch.arange(600.0).reshape(20, 30).T + salt,
        "half": torch.full((7,), salt, dtype=torch.bfloat16),
        "flags": torch.tensor([salt % 2 == 0, True]),
        "number": salt,
        "words": [f"{field} {number}"],
    }


def table(pairs: dict[str, str]) -> str:
    """Lines of a table in TOML."""
    return "\n".join(f'{name} = "{value}"' for name, value in pairs.items())


@pytest.fixture
def places(
    tmp_path: Path,
    s3_server: S3Server,
    gcs_server: GcsServer,
    azure_server: AzureServer,
    http_server: HttpServer,
    fault_servers: Callable[[Path], Testkit],
) -> Places:
    """The originals, put into every place below a prefix that nobody else uses."""
    for field, pattern in PAIRS.items():
        (tmp_path / "run" / field).mkdir(parents=True)
        for number in range(SAMPLES):
            torch.save(value(field, number), tmp_path / "run" / field / f"{pattern.replace('*', f'{number:04}')}.pt")
    s3, prefix, served = new_remote(s3_server), uuid.uuid4().hex, Path(http_server["folder"])
    writers: dict[str, Callable[[str, bytes], Any]] = {
        "latents": s3.put,
        "motion": lambda name, data: put_object(gcs_server, f"{prefix}/{name}", data),
        "depth": lambda name, data: put_blob(azure_server, f"{prefix}/{name}", data),
        "masks": lambda name, data: (served / prefix / name).write_bytes(data),
    }
    (served / prefix / "masks").mkdir(parents=True)
    for field, write in writers.items():
        for original in (tmp_path / "run" / field).iterdir():
            write(f"{field}/{original.name}", original.read_bytes())
    stub = fault_servers(tmp_path)
    azure = {"endpoint": azure_server["endpoint"], "account": azure_server["account"], "access_key": azure_server["key"]}
    sources = {
        "latents": s3.source("latents"),
        "conditions": hw.Source(str(tmp_path / "run/conditions")),
        "motion": hw.Source(f"gs://{gcs_server['bucket']}/{prefix}/motion", endpoint=gcs_server["endpoint"], anonymous=True),
        "depth": hw.Source(f"az://{azure_server['container']}/{prefix}/depth", **azure),
        "masks": hw.Source(f"{http_server['url']}/{prefix}/masks"),
        "captions": hw.Source(f"hf://datasets/{stub.dataset}@main/run/captions", endpoint=stub.hub),
    }
    return Places(tmp_path / "run", sources, stub)


def test_fields_of_six_kinds_of_source_are_joined_by_key_and_renamed(places: Places) -> None:
    dataset = hw.StreamingDataset(places.sources, pairs=PAIRS, rename=RENAMED)
    assert len(dataset) == SAMPLES
    assert dataset.fields == [RENAMED.get(name, name) for name in PAIRS]
    for index in range(SAMPLES):
        sample = dataset[index]
        assert sample["__key__"] == dataset.key(index) == f"{index:04}"
        places.assert_is_what_was_stored(sample)


def test_a_sample_that_lacks_one_remote_object_is_named(places: Places) -> None:
    (places.originals / "conditions/condition_0003.pt").unlink()
    with pytest.raises(hw.NotFoundError, match="0003"):
        hw.StreamingDataset(places.sources, pairs=PAIRS)
    assert len(hw.StreamingDataset(places.sources, pairs=PAIRS, on_missing="skip")) == SAMPLES - 1


@pytest.mark.parametrize(("workers", "start"), [(2, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)])
def test_workers_read_from_every_kind_of_source(places: Places, workers: int, start: str) -> None:
    dataset = hw.StreamingDataset(places.sources, pairs=PAIRS, rename=RENAMED)
    places.assert_is_what_was_stored(dataset[0])  # so that the parent has connections that no child may use
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=4, shuffle=True, collate_fn=list, num_workers=workers, multiprocessing_context=start
    )
    samples = [sample for batch in loader for sample in batch]
    assert sorted(sample["__index__"] for sample in samples) == list(range(SAMPLES))
    for sample in samples:
        places.assert_is_what_was_stored(sample)
    assert places.testkit.stats()["tokens_leaked"] == 0


def test_batches_of_every_kind_of_source_are_stacked_under_the_new_names(places: Places) -> None:
    dataset = hw.StreamingDataset(places.sources, pairs=PAIRS, rename=RENAMED)
    with hw.StreamingDataLoader(dataset, batch_size=4, shuffle=True) as loader:
        batches = list(loader)
    numbers = [number for batch in batches for number in batch["__index__"].tolist()]
    assert sorted(numbers) == list(range(SAMPLES))
    for batch in batches:
        for name in PAIRS:
            expected = torch.stack([value(name, number)["x"] for number in batch["__index__"].tolist()])
            assert_same(batch[RENAMED.get(name, name)]["x"], expected, name)


def test_a_loader_over_every_kind_of_source_is_resumable_at_every_step(places: Places) -> None:
    def made(fields: Any = places.sources) -> hw.StreamingDataLoader:
        dataset = hw.StreamingDataset(fields, pairs={name: PAIRS[name] for name in fields})
        return hw.StreamingDataLoader(dataset, batch_size=4, shuffle=True, seed=3)

    assert_resumable(made(), fresh=made)
    for name, source in places.sources.items():
        assert_resumable(made({name: source}), epochs=1)


def test_a_dataset_of_every_kind_of_source_without_explicit_secrets_is_pickled(
    places: Places, monkeypatch: pytest.MonkeyPatch, s3_server: S3Server, azure_server: AzureServer, http_server: HttpServer
) -> None:
    """Credentials come from the environment, and places are written as people write them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server["secret_access_key"])
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", azure_server["account"])
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azure_server["key"])
    monkeypatch.setenv("HF_ENDPOINT", places.testkit.hub)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    old = places.sources
    latents = hw.Source(old["latents"].uri, endpoint=s3_server["endpoint"], region=s3_server["region"])
    depth = hw.Source(old["depth"].uri, endpoint=azure_server["endpoint"])
    fields = places.fields(latents=latents, depth=depth, captions=old["captions"].uri)
    saved = pickle.dumps(hw.StreamingDataset(fields, pairs=PAIRS, rename=RENAMED))
    for secret in (s3_server["secret_access_key"], azure_server["key"], "hf_secret", http_server["password"]):
        assert secret.encode() not in saved
    again = pickle.loads(saved)
    for sample in again[list(range(SAMPLES))]:
        places.assert_is_what_was_stored(sample)


@pytest.mark.parametrize(
    "uri",
    [
        "hf://datasets/org/name@main/path",
        "hf://org/name@v1.0/path",
        "abfs://container@account.dfs.core.windows.net/path",
        "s3://bucket/run@3/path",
        "http://host:9000/run@3/path",
    ],
)
def test_an_at_sign_that_is_no_users_is_shown_and_pickled(uri: str) -> None:
    source = hw.Source(uri)
    assert uri in repr(source)
    assert pickle.loads(pickle.dumps(source)) == source


def test_a_file_describes_replicas_and_names_of_every_kind(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_server: S3Server, azure_server: AzureServer
) -> None:
    """Each remote field has a local replica behind it, relative to the file; one field has a dead one before it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server["secret_access_key"])
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azure_server["key"])
    sources = places.sources
    file = tmp_path / "headwater.toml"
    file.write_text(f"""
[fields]
latents = ["{sources["latents"].uri}", "run/latents"]
conditions = "run/conditions"
motion = [{{ uri = "{sources["motion"].uri}", endpoint = "{sources["motion"].options["endpoint"]}", anonymous = true }}]
depth = [
    {{ uri = "http://127.0.0.1:1/depth" }},
    {{ uri = "{sources["depth"].uri}", account = "{azure_server["account"]}", endpoint = "{azure_server["endpoint"]}" }},
    "run/depth",
]
masks = ["{sources["masks"].uri}", "./run/masks"]
captions = {{ uri = "{sources["captions"].uri}", endpoint = "{places.testkit.hub}" }}

[pairs]
{table(PAIRS)}

[rename]
{table(RENAMED)}

[storage_options.s3]
endpoint = "{s3_server["endpoint"]}"
region = "{s3_server["region"]}"

[fetch]
connect_timeout = "2s"
no_progress_timeout = "5s"
deadline = "20s"
retries = 2
hedge = 0.1
max_bandwidth = "1GB"
part_size = "4MB"
verify = "auto"

[loader]
batch_size = 4
collate = "list"
""")
    with hw.open(file) as loader:
        batches = list(loader)
        assert sum(len(batch["__key__"]) for batch in batches) == SAMPLES
        for batch in batches:
            for name in PAIRS:
                expected = [value(name, number)["x"].contiguous() for number in batch["__index__"].tolist()]
                assert_same(batch[RENAMED.get(name, name)]["x"], expected, name)
        assert loader.stats()["replica_failovers_total"] > 0
    for sample in hw.StreamingDataset.open(file):
        places.assert_is_what_was_stored(sample)


def test_an_azure_key_of_the_environment_goes_with_the_account_of_the_place(
    places: Places, monkeypatch: pytest.MonkeyPatch, azure_server: AzureServer
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azure_server["key"])
    depth = hw.Source(places.sources["depth"].uri, account=azure_server["account"], endpoint=azure_server["endpoint"])
    assert len(hw.StreamingDataset({"depth": depth}, pairs={"depth": PAIRS["depth"]})) == SAMPLES


def test_a_private_folder_of_a_web_server_needs_its_password(places: Places, http_server: HttpServer) -> None:
    private = places.sources["masks"].uri.replace(http_server["url"], http_server["private"])
    with pytest.raises(hw.AccessDeniedError, match="/private/"):
        hw.StreamingDataset({"masks": private})
    user, password = http_server["user"], http_server["password"]
    in_uri = private.replace("http://", f"http://{user}:{password}@")
    for place in (hw.Source(private, user=user, password=password), in_uri):
        assert len(hw.StreamingDataset({"masks": place})) == SAMPLES
    with pytest.raises(hw.AccessDeniedError) as error:
        hw.StreamingDataset({"masks": hw.Source(private, user=user, password="wrong-password")})
    assert "wrong-password" not in str(error.value)


@pytest.mark.parametrize("copied", [False, True], ids=["its folder", "a later copy"])
def test_a_folder_that_the_command_published_is_read_over_http(http_server: HttpServer, *, copied: bool) -> None:
    fields, prefix, served = ("latents", "conditions"), uuid.uuid4().hex, Path(http_server["folder"])
    folder = served / prefix
    for field in fields:
        (folder / field).mkdir(parents=True)
        for number in range(SAMPLES):
            torch.save(value(field, number), folder / field / f"{number:04}.pt")
    command = Path(sys.executable).with_name("headwater")
    subprocess.run([command, "index", folder, "--publish"], check=True, timeout=60)
    if copied:
        prefix += "-copy"
        shutil.copytree(folder, served / prefix)
        for path in (served / prefix).rglob("*.pt"):
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime + 100))
    dataset = hw.StreamingDataset(f"{http_server['url']}/{prefix}", manifest="published")
    assert len(dataset) == SAMPLES
    for sample in dataset:
        for field in fields:
            assert_same(sample[field], torch.load(folder / field / f"{sample['__key__']}.pt", weights_only=True), field)


def test_kept_manifests_of_every_kind_hold_no_secret(places: Places, s3_server: S3Server, azure_server: AzureServer) -> None:
    remote = {name: source for name, source in places.sources.items() if name != "conditions"}
    hw.StreamingDataset(remote, pairs={name: PAIRS[name] for name in remote})
    kept = [path for path in Path(os.environ["HEADWATER_HOME"]).rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        data = path.read_bytes()
        for secret in (s3_server["secret_access_key"], s3_server["access_key_id"], azure_server["key"]):
            assert secret.encode() not in data, path
