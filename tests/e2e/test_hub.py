"""The Hub as its own client sees it and as we do: the same files, one commit, and tokens only where they belong."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import huggingface_hub.errors
import pytest
import torch
from torch.utils.data import DataLoader

import headwater as hw
from conftest import absent
from same import assert_same
from servers import olah
from servers.testkit import Testkit

pytestmark = pytest.mark.e2e

SAMPLES = 6
PRIVATE = "private/bucket"


@pytest.fixture(autouse=True)
def _nobody_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No token and no cache of whoever runs the tests."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small files, which the Hub serves itself, and large ones, which are elsewhere; some in folders and with odd names."""
    root = tmp_path / "files"
    (root / "run/deep er").mkdir(parents=True)
    for number in range(SAMPLES):
        value = {"x": torch.arange(10.0 if number % 2 else 3000.0) + number, "number": number}
        name = f"run/deep er/{number}+1.pt" if number % 3 == 0 else f"run/{number}.pt"
        torch.save(value, root / name)
    torch.save(torch.arange(3), root / "elsewhere.pt")
    (root / "run/readme.md").write_text("# A run\n")
    return root


@pytest.fixture
def hub(folder: Path, fault_servers: Callable[[Path], Testkit]) -> Testkit:
    return fault_servers(folder)


def source(hub: Testkit, path: str = "", revision: str = "main", repository: str = "", **options: str) -> hw.Source:
    uri = f"hf://datasets/{repository or hub.dataset}@{revision}/{path}"
    return hw.Source(uri, endpoint=hub.hub, **options)


def test_the_hubs_own_client_lists_and_reads_what_we_do(hub: Testkit, folder: Path, tmp_path: Path) -> None:
    api = huggingface_hub.HfApi(endpoint=hub.hub, token=False)
    entries = list(api.list_repo_tree(hub.dataset, "run", repo_type="dataset", recursive=True))
    files = {entry.path: entry for entry in entries if isinstance(entry, huggingface_hub.RepoFile)}
    assert any(file.lfs for file in files.values())
    dataset = hw.StreamingDataset({"x": source(hub, "run")})
    keys = [dataset.key(index) for index in range(len(dataset))]
    assert sorted(f"run/{key}.pt" for key in keys) == sorted(path for path in files if path.endswith(".pt"))
    for sample in dataset:
        path = f"run/{sample['__key__']}.pt"
        downloaded = Path(
            huggingface_hub.hf_hub_download(
                hub.dataset, path, repo_type="dataset", endpoint=hub.hub, cache_dir=tmp_path / "cache", token=False
            )
        )
        stored = (folder / path).read_bytes()
        assert downloaded.read_bytes() == stored
        assert files[path].size == len(stored)
        assert_same(sample["x"], torch.load(downloaded, weights_only=True))
        assert_same(sample["x"], torch.load(folder / path, weights_only=True))
    assert hub.stats()["tokens_leaked"] == 0


def test_an_open_dataset_stays_with_its_commit_and_a_new_one_takes_the_next(hub: Testkit, folder: Path) -> None:
    api = huggingface_hub.HfApi(endpoint=hub.hub, token=False)
    before = api.dataset_info(hub.dataset).sha
    old = hw.StreamingDataset({"x": source(hub, "run")})
    changed, added = old.key(1), "zz"
    was = old[1]["x"]
    replaced = (folder / f"run/{old.key(2)}.pt").read_bytes()
    hub.put(f"run/{changed}.pt", replaced)
    hub.put(f"run/{added}.pt", replaced)
    after = api.dataset_info(hub.dataset).sha
    assert before != after

    assert_same(old[1]["x"], was)
    assert len(old) == SAMPLES
    new = hw.StreamingDataset({"x": source(hub, "run")})
    assert len(new) == SAMPLES + 1
    assert_same(new[1]["x"], old[2]["x"])
    for revision, samples in ((before, SAMPLES), (after, SAMPLES + 1)):
        pinned = hw.StreamingDataset({"x": source(hub, "run", revision)})
        assert len(pinned) == samples
        assert_same(pinned[1]["x"], was if revision == before else old[2]["x"])


def test_a_commit_is_kept_in_pickles_and_workers(hub: Testkit, folder: Path) -> None:
    dataset = hw.StreamingDataset({"x": source(hub, "run")})
    was = [dataset[index]["x"] for index in range(SAMPLES)]
    key, replaced = dataset.key(1), (folder / f"run/{dataset.key(2)}.pt").read_bytes()
    pickled = pickle.dumps(dataset)
    hub.put(f"run/{key}.pt", replaced)
    again = pickle.loads(pickled)
    assert_same([again[index]["x"] for index in range(SAMPLES)], was)
    for start in ("fork", "spawn"):
        loader = DataLoader(again, batch_size=None, num_workers=1, multiprocessing_context=start)
        assert_same([sample["x"] for sample in loader], was)


def test_a_manifest_of_a_commit_is_kept_whatever_its_age(hub: Testkit) -> None:
    hw.StreamingDataset({"x": source(hub, "run")}, manifest_max_age=0)
    listed = hub.stats()["list"]
    again = hw.StreamingDataset({"x": source(hub, "run")}, manifest_max_age=0)
    assert hub.stats()["list"] == listed
    assert len(again) == SAMPLES


@pytest.mark.parametrize(("repository", "revision"), [("headwater/nothing", "main"), ("", "no-such-branch"), ("", "0" * 40)])
def test_what_is_not_there_is_named_by_both(hub: Testkit, repository: str, revision: str) -> None:
    with pytest.raises(hw.NotFoundError) as error:
        hw.StreamingDataset({"x": source(hub, "run", revision, repository)})
    assert (repository or revision) in str(error.value)
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError):
        huggingface_hub.HfApi(endpoint=hub.hub, token=False).dataset_info(repository or hub.dataset, revision=revision)


def test_a_private_dataset_without_a_token_says_how_to_give_one(hub: Testkit) -> None:
    with pytest.raises((hw.NotFoundError, hw.AccessDeniedError)) as error:
        hw.StreamingDataset({"x": source(hub, "run", repository=PRIVATE)})
    for word in (PRIVATE, "HF_TOKEN", hub.hub):
        assert word in str(error.value)


def test_a_wrong_token_for_a_private_dataset_is_not_repeated(hub: Testkit) -> None:
    with pytest.raises((hw.NotFoundError, hw.AccessDeniedError)) as error:
        hw.StreamingDataset({"x": source(hub, "run", repository=PRIVATE, token="hf_not_this_one")})
    assert "the token in the source's options" in str(error.value)
    assert "hf_not_this_one" not in str(error.value)


@pytest.mark.parametrize("way", ["HF_TOKEN", "HF_HOME", "HF_TOKEN_PATH", "login", "option"])
def test_a_private_dataset_is_read_with_the_token_and_the_token_goes_nowhere_else(
    hub: Testkit, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    options = {}
    match way:
        case "HF_TOKEN":
            monkeypatch.setenv("HF_TOKEN", hub.token)
        case "HF_HOME":
            (tmp_path / "hub").mkdir()
            (tmp_path / "hub/token").write_text(f"{hub.token}\n")
        case "HF_TOKEN_PATH":
            (tmp_path / "kept").write_text(hub.token)
            monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "kept"))
        case "login":
            # Where `hf auth login` writes it, by the client's own account.
            monkeypatch.delenv("HF_HOME")
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
            (tmp_path / "caches/huggingface").mkdir(parents=True)
            (tmp_path / "caches/huggingface/token").write_text(hub.token)
        case _:
            options = {"token": hub.token}
    with caplog.at_level(logging.DEBUG):
        dataset = hw.StreamingDataset({"x": source(hub, "run", repository=PRIVATE, **options)})
        samples = list(dataset)
    assert len(samples) == SAMPLES
    for sample in samples:
        assert_same(sample["x"], torch.load(folder / f"run/{sample['__key__']}.pt", weights_only=True))
    stats = hub.stats()
    assert stats["tokens_leaked"] == 0
    assert hub.token not in caplog.text


def test_large_files_are_read_in_parts_from_the_other_host_without_the_token(hub: Testkit, folder: Path) -> None:
    place = source(hub, "run", repository=PRIVATE, token=hub.token)
    dataset = hw.StreamingDataset({"x": place}, fetch=hw.FetchConfig(part_size=2048))
    for sample in dataset:
        assert_same(sample["x"], torch.load(folder / f"run/{sample['__key__']}.pt", weights_only=True))
    assert dataset.stats()["source_reads_in_parts_total"] > 0
    assert hub.stats()["tokens_leaked"] == 0


def test_a_mirror_of_the_hub_serves_us_the_same(hub: Testkit, folder: Path) -> None:
    """Another implementation: it redirects nobody, and has ranges and hashes of its own."""
    if missing := olah.missing():
        absent(f"no mirror of the Hub: {', '.join(missing)} not installed, `make test-servers` installs it")
    with olah.serving(hub.hub) as endpoint:
        place = hw.Source(f"hf://datasets/{hub.dataset}@main/run", endpoint=endpoint)
        for part_size in (0, 2048):
            dataset = hw.StreamingDataset({"x": place}, fetch=hw.FetchConfig(part_size=part_size, retries=1))
            assert len(dataset) == SAMPLES
            for sample in dataset:
                assert_same(sample["x"], torch.load(folder / f"run/{sample['__key__']}.pt", weights_only=True))
    assert hub.stats()["tokens_leaked"] == 0


def test_the_endpoint_comes_from_the_environment_as_the_client_takes_it(hub: Testkit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.hub)
    assert len(hw.StreamingDataset({"x": f"hf://datasets/{hub.dataset}/run"})) == SAMPLES
