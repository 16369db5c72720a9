"""Training from a real S3 server: what arrives is what was stored, and no credential leaves the dataset."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import headwater as hw

from .conftest import SAMPLES, Remote

pytestmark = pytest.mark.e2e

PAIRS = {"latents": "latent_*", "conditions": "condition_*"}
FILES = {"latents": "latents/latent_{}.pt", "conditions": "conditions/condition_{}.pt"}
POSITIONS = 64


def opened(place: Remote) -> hw.StreamingDataset:
    """The demo set, streamed."""
    return hw.StreamingDataset({name: place.source(name) for name in PAIRS}, pairs=PAIRS)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a tree of dicts and sequences that is neither, with its path."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from leaves(item, f"{path}[{number}]")
    else:
        yield path, value


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, so that NaN equals itself and -0.0 does not equal 0.0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def assert_same(found: Any, expected: Any) -> None:
    """Fails unless both trees have the same shape and bit-identical tensors."""
    found_leaves, expected_leaves = dict(leaves(found)), dict(leaves(expected))
    assert list(found_leaves) == list(expected_leaves)
    for path, tensor in expected_leaves.items():
        other = found_leaves[path]
        assert type(other) is type(tensor), path
        if isinstance(tensor, torch.Tensor):
            assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape), path
            assert torch.equal(bits(other), bits(tensor)), path
        else:
            assert other == tensor, path


def assert_is_what_was_stored(sample: dict[str, Any], folder: Path) -> None:
    """Compares every field with what `torch.load` makes of the original file."""
    for name, pattern in FILES.items():
        path = folder / pattern.format(sample["__key__"])
        assert_same(sample[name], torch.load(path, weights_only=True))


def training_input(samples: list[dict[str, Any]]) -> torch.Tensor:
    """The first floating-point tensor of each sample's latents, as `[samples, POSITIONS]` float32."""
    rows = []
    for sample in samples:
        tensors = (leaf for _, leaf in leaves(sample["latents"]) if isinstance(leaf, torch.Tensor))
        first = next(tensor for tensor in tensors if tensor.is_floating_point())
        rows.append(first.reshape(-1)[:POSITIONS].float())
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("workers", "start"),
    [(0, None), (2, "fork"), pytest.param(2, "spawn", marks=pytest.mark.slow)],
)
def test_trains_two_epochs_on_what_was_stored(remote_set: Remote, demo_set: Path, workers: int, start: str | None) -> None:
    torch.manual_seed(0)
    dataset = opened(remote_set)
    assert len(dataset) == SAMPLES
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=4,
        shuffle=True,
        collate_fn=list,
        num_workers=workers,
        multiprocessing_context=start,
    )
    model = torch.nn.Linear(POSITIONS, POSITIONS)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses: list[float] = []
    for _ in range(2):
        keys = []
        total = 0.0
        for samples in loader:
            for sample in samples:
                assert dataset.key(sample["__index__"]) == sample["__key__"]
                assert_is_what_was_stored(sample, demo_set)
                keys.append(sample["__key__"])
            batch = training_input(samples)
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(batch), batch)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item()
        assert sorted(keys) == [dataset.key(index) for index in range(SAMPLES)]
        losses.append(total)
    assert losses[1] < losses[0]


def test_reads_some_objects_plain_and_some_compressed(remote_set: Remote) -> None:
    listing = remote_set.client.list_objects_v2(Bucket=remote_set.server["bucket"], Prefix=remote_set.prefix)
    names = [item["Key"] for item in listing["Contents"]]
    assert sum(name.endswith(".pt") for name in names) == SAMPLES
    assert sum(name.endswith(".pt.zst") for name in names) == SAMPLES


def test_default_collation_stacks_batches(remote_set: Remote, demo_set: Path) -> None:
    batch = next(iter(DataLoader(opened(remote_set), batch_size=3)))
    assert batch["__index__"].tolist() == [0, 1, 2]
    for row, key in enumerate(batch["__key__"]):
        expected = dict(leaves(torch.load(demo_set / FILES["latents"].format(key), weights_only=True)))
        for path, value in leaves(batch["latents"]):
            if isinstance(expected.get(path), torch.Tensor):
                assert torch.equal(bits(value[row]), bits(expected[path])), path


def test_secrets_stay_inside(remote_set: Remote) -> None:
    source = remote_set.source("latents")
    dataset = opened(remote_set)
    dataset[0]
    words = [repr(source), str(source), repr(dataset), str(dataset), repr(dataset.stats())]
    with pytest.raises(hw.ConfigError, match="credentials") as refused:
        pickle.dumps(dataset)
    words.append(str(refused.value))
    for text in words:
        assert remote_set.server["secret_access_key"] not in text
        assert remote_set.server["access_key_id"] not in text


def test_a_dataset_on_the_standard_chain_pickles_without_secrets(
    remote_set: Remote, demo_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = remote_set.server
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server["secret_access_key"])
    place = {"endpoint": server["endpoint"], "region": server["region"]}
    fields = {name: hw.Source(remote_set.uri(name), **place) for name in PAIRS}
    saved = pickle.dumps(hw.StreamingDataset(fields, pairs=PAIRS))
    assert server["secret_access_key"].encode() not in saved
    assert server["access_key_id"].encode() not in saved
    assert_is_what_was_stored(pickle.loads(saved)[SAMPLES - 1], demo_set)


def test_kept_manifests_hold_no_secret(remote_set: Remote) -> None:
    opened(remote_set)
    kept = [path for path in Path(os.environ["HEADWATER_HOME"]).rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        data = path.read_bytes()
        assert remote_set.server["secret_access_key"].encode() not in data, path
        assert remote_set.server["access_key_id"].encode() not in data, path
