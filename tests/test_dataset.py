"""`StreamingDataset` as its users see it."""

from __future__ import annotations

import copy
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headwater as hw
import waiting
from forks import in_child
from pairs import PAIRS, SAMPLES, check, condition, latent, open_pairs, read_all, write_pairs
from same import assert_same


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("set"))


@pytest.fixture
def dataset(folder: Path) -> hw.StreamingDataset:
    return open_pairs(folder)


def test_a_sample_is_what_torch_saved(dataset: hw.StreamingDataset) -> None:
    assert len(dataset) == SAMPLES
    assert dataset.fields == ["latents", "conditions"]
    for number in (0, 7, SAMPLES - 1):
        check(dataset[number], number)
    check(dataset[-1], SAMPLES - 1)
    check(dataset[np.int64(3)], 3)
    check(dataset[torch.tensor(3)], 3)


def test_several_indices_give_a_list_in_their_order(dataset: hw.StreamingDataset) -> None:
    wanted = [5, -1, 5, 0]
    for indices in (wanted, tuple(wanted), np.array(wanted), torch.tensor(wanted)):
        for sample, number in zip(dataset[indices], [5, SAMPLES - 1, 5, 0], strict=True):
            check(sample, number)
    assert dataset[[]] == []
    assert [sample["__index__"] for sample in dataset] == list(range(SAMPLES))


@pytest.mark.parametrize("index", [SAMPLES, -SAMPLES - 1, 2**62, 2**70, -(2**70)])
def test_an_index_out_of_range_is_an_index_error(dataset: hw.StreamingDataset, index: int) -> None:
    with pytest.raises(IndexError, match=f"`{index}`: the dataset has {SAMPLES} samples"):
        dataset[index]
    with pytest.raises(hw.IndexOutOfRangeError):
        dataset[[0, index]]
    with pytest.raises(IndexError):
        dataset.key(index)


@pytest.mark.parametrize(
    ("index", "words"), [(slice(3), "Subset"), (True, "bool"), ("0001", "str"), (1.0, "float"), (None, "None")]
)
def test_what_is_no_index_is_refused_in_words(dataset: hw.StreamingDataset, index: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        dataset[index]


def test_keys_fingerprints_and_repr(dataset: hw.StreamingDataset, folder: Path) -> None:
    assert dataset.key(3) == "0003"
    again = hw.StreamingDataset({name: str(folder / name) for name in PAIRS}, pairs=PAIRS)
    assert again.order_fingerprint == dataset.order_fingerprint
    assert again.content_fingerprint == dataset.content_fingerprint
    assert repr(dataset) == f"<StreamingDataset of {SAMPLES} samples, fields latents, conditions>"


def test_stats_count_what_was_read(dataset: hw.StreamingDataset) -> None:
    dataset[[0, 1, 2]]
    stats = dataset.stats()
    assert (stats["samples_read_total"], stats["source_requests_total"], stats["manifest_samples"]) == (3, 6, SAMPLES)
    assert stats["decoded_bytes_total"] == 3 * (4 * 8 + 16) * 4
    assert stats["source_read_bytes_total"] > stats["decoded_bytes_total"]
    assert stats["decode_seconds_total"] > 0


def test_one_place_with_folders_has_them_as_fields(folder: Path) -> None:
    dataset = hw.StreamingDataset(folder, pairs=PAIRS)
    assert dataset.fields == ["conditions", "latents"]
    assert_same(dataset[2]["latents"], latent(2))


def test_one_place_without_folders_is_spread(folder: Path, tmp_path: Path) -> None:
    sample = hw.StreamingDataset(folder / "latents")[2]
    assert sample == {**sample, "fps": 24.0, "__key__": "latent_0002", "__index__": 2}
    np.save(tmp_path / "a.npy", np.arange(3))
    assert hw.StreamingDataset(tmp_path)[0]["data"].tolist() == [0, 1, 2]


def test_formats_and_compression_may_mix(folder: Path, tmp_path: Path) -> None:
    import zstandard

    packed = zstandard.compress((folder / "latents/latent_0000.pt").read_bytes())
    (tmp_path / "0.pt.zst").write_bytes(packed)
    np.save(tmp_path / "1.npy", np.ones(2))
    (tmp_path / "notes.txt").write_text("passed over")
    (tmp_path / "._1.npy").write_text("left by a file manager")
    dataset = hw.StreamingDataset({"x": tmp_path})
    assert_same(dataset[0]["x"], latent(0))
    assert [dataset.key(0), dataset.key(1), len(dataset)] == ["0", "1", 2]


def test_a_plain_object_wins_over_its_compressed_twin(folder: Path, tmp_path: Path) -> None:
    torch.save(1, tmp_path / "a.pt")
    (tmp_path / "a.pt.zst").write_bytes(b"not even zstd")
    assert hw.StreamingDataset({"x": tmp_path})[0]["x"] == 1


def test_missing_partners(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(condition(0), tmp_path / "condition_0000.pt")
    torch.save(condition(0), tmp_path / "condition_9999.pt")
    fields = {"latents": folder / "latents", "conditions": tmp_path}
    with pytest.raises(FileNotFoundError, match=r"objects are missing \(conditions: 0001.*on_missing = \"skip\""):
        hw.StreamingDataset(fields, pairs=PAIRS)
    with caplog.at_level(logging.WARNING, "headwater"):
        dataset = hw.StreamingDataset(fields, pairs=PAIRS, on_missing="skip")
    assert (len(dataset), dataset.stats()["manifest_missing_objects"]) == (1, SAMPLES)
    assert "objects are missing (conditions: 0001" in caplog.text


def test_transform_makes_the_sample(folder: Path) -> None:
    dataset = hw.StreamingDataset(folder, pairs=PAIRS, transform=lambda sample: sample["__index__"] * 10)
    assert (dataset[3], dataset[[1, 2]]) == (30, [10, 20])


def test_an_object_that_was_replaced_is_noticed(folder: Path, tmp_path: Path) -> None:
    torch.save(1, tmp_path / "a.pt")
    strict, lenient = hw.StreamingDataset({"x": tmp_path}), hw.StreamingDataset({"x": tmp_path}, on_changed="reload")
    torch.save([2, 3], tmp_path / "a.pt")
    with pytest.raises(hw.ObjectChangedError, match=r"a\.pt`: it was replaced"):
        strict[0]
    assert lenient[0]["x"] == [2, 3]
    (tmp_path / "a.pt").unlink()
    for dataset in (strict, lenient):
        with pytest.raises(hw.NotFoundError, match=r"a\.pt"):
            dataset[0]


def test_a_damaged_object_is_named_and_harms_no_other(folder: Path, tmp_path: Path) -> None:
    torch.save(torch.zeros(100), tmp_path / "a.pt")
    torch.save(torch.zeros(100), tmp_path / "b.pt")
    dataset = hw.StreamingDataset({"x": tmp_path}, on_changed="reload")
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:-100])
    with pytest.raises(hw.CorruptDataError, match=r"a\.pt"):
        dataset[[1, 0, 1]]
    assert dataset[1]["x"].shape == (100,)
    assert dataset.stats()["decode_errors_total"] >= 1


def test_open_reads_a_file_with_paths_relative_to_it(folder: Path) -> None:
    (folder / "headwater.toml").write_text('[fields]\nlatents = "latents"\n[pairs]\nlatents = "latent_*"\n')
    check_latents = hw.StreamingDataset.open(folder / "headwater.toml")[5]
    assert_same(check_latents["latents"], latent(5))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.toml"):
        hw.StreamingDataset.open("nowhere.toml")


BAD = [
    ({"fields": "/nowhere/at/all"}, hw.NotFoundError, "cannot open directory `/nowhere/at/all`"),
    ({"fields": __file__}, hw.ConfigError, "it is a file; give the directory"),
    ({"fields": ""}, hw.ConfigError, "it is empty; expected a path"),
    ({"fields": "ftp://host/x"}, hw.ConfigError, "`ftp://host/x`: unknown scheme `ftp:`; known are a path, file:///path"),
    ({"fields": "s3:bucket/x"}, hw.ConfigError, "expected `s3://"),
    ({"fields": "s3://"}, hw.ConfigError, "expected s3://bucket/prefix"),
    ({"fields": "s3://bucket/x?versionId=3"}, hw.ConfigError, "`.` does not belong in such a URI"),
    ({"fields": hw.Source("s3://bucket/x", key_id_access="a")}, hw.ConfigError, "cannot use option `key_id_access`"),
    ({"fields": hw.Source("/tmp", region="x")}, hw.ConfigError, "a local directory has no options"),
    ({"fields": {}}, hw.ConfigError, "give either `fields`"),
    ({"fields": {"__key__": "/tmp"}}, hw.ConfigError, "two underscores"),
    ({"fields": {"a": "/tmp"}, "pairs": {"b": "*"}}, hw.ConfigError, "`b`: `pairs` names a field that is not there"),
    ({"fields": {"a": "/tmp"}, "pairs": {"a": "latent_"}}, hw.ConfigError, "with one `\\*` for the key"),
    ({"fields": {"a": 3}}, hw.ConfigError, "cannot use a `int` as source"),
    ({"fields": "/tmp", "on_missing": "ignore"}, hw.ConfigError, "ignore"),
    ({"fields": "/tmp", "manifest_max_age": "soon"}, hw.ConfigError, "write it like 90s"),
    ({"fields": hw.Source("s3://b/x", endpoint="127.0.0.1:9000")}, hw.ConfigError, "expected a URL like http://host:9000"),
    ({"fields": hw.Source("s3://b/x", endpoint="::::")}, hw.ConfigError, "expected a URL like http://host:9000"),
    ({"fields": hw.Source("s3://b/x", allow_http="maybe")}, hw.ConfigError, "`allow_http`: it is true or false"),
    ({"fields": hw.Source("s3://b/x", path_style="maybe")}, hw.ConfigError, "`path_style`: it is true or false"),
    ({"fields": hw.Source("s3://b/x", timeout="soon")}, hw.ConfigError, "cannot use option `timeout`"),
    ({"fields": "s3://AKIAX:hunter2@bucket/x"}, hw.ConfigError, r"`s3://\*\*\*@bucket/x`: `@` does not belong"),
    ({"fields": "/tmp", "storage_options": {"S3": {"region": "x"}}}, hw.ConfigError, "by field or by scheme, which are `file`"),
    ({"fields": {"a": "/tmp"}, "storage_options": {"b": {}}}, hw.ConfigError, "cannot use `b`: `storage_options` are by field"),
    ({"fields": "/tmp", "manifest_max_age": float("inf")}, hw.ConfigError, "cannot use `manifest_max_age`: inf is no setting"),
    ({"fields": "/tmp", "framework": "jax"}, hw.ConfigError, "known are 'torch' and 'numpy'"),
]


@pytest.mark.parametrize(("arguments", "error", "words"), BAD, ids=[words for *_, words in BAD])
def test_bad_input_says_what_was_expected(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        hw.StreamingDataset(**arguments)
    assert isinstance(caught.value, hw.HeadwaterError)
    assert type(pickle.loads(pickle.dumps(caught.value))) is type(caught.value)


def test_an_empty_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("nothing here")
    with pytest.raises(
        hw.NotFoundError, match=f"cannot find samples in `{tmp_path}`: it holds no object of a known format \\(1 others"
    ):
        hw.StreamingDataset(tmp_path)


def test_secrets_are_in_no_words_and_no_pickle() -> None:
    source = hw.Source(
        "s3://bucket/x", endpoint="http://127.0.0.1:1", access_key_id="AKIAEXAMPLE", secret_access_key="hunter2hunter2"
    )
    assert "hunter2" not in repr(source)
    assert "AKIA" not in repr(source)
    with pytest.raises(hw.UnavailableError) as caught:
        hw.StreamingDataset(source)
    assert "s3://bucket/x" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(hw.ConfigError, match="standard chains"):
        pickle.dumps(source)
    odd = hw.Source("s3://b/x", secret_access_key="hunter2", timeout=float("nan"))
    with pytest.raises(hw.ConfigError, match=r"`fields\.x\.timeout`: nan is no setting") as refused:
        hw.StreamingDataset({"x": odd})
    assert "hunter2" not in str(refused.value)
    with_user = hw.Source("s3://AKIAX:hunter2@bucket/x")
    assert "hunter2" not in repr(with_user)
    for secret in (
        with_user,
        hw.Source("s3://b", endpoint="http://u:hunter2@h"),
        hw.Source("s3://b", aws_sse_customer_key_base64="x"),
    ):
        with pytest.raises(hw.ConfigError, match="explicit credentials"):
            pickle.dumps(secret)


def test_sources_are_values() -> None:
    source = hw.Source("s3://bucket/x", region="eu", anonymous=True)
    assert {source, hw.Source("s3://bucket/x", anonymous=True, region="eu")} == {source}
    assert pickle.loads(pickle.dumps(source)) == source
    secret = hw.Source("s3://bucket/x", token="hunter2")
    assert copy.deepcopy({"x": secret}) == {"x": secret}
    assert copy.copy(secret) == secret


def test_a_relative_path_means_the_same_after_a_change_of_directory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    dataset = hw.StreamingDataset({name: name for name in PAIRS}, pairs=PAIRS)
    monkeypatch.chdir(tmp_path)
    in_child(lambda: read_all(dataset))
    read_all(pickle.loads(pickle.dumps(dataset)))


def test_a_file_may_name_folders_with_odd_names(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "run:3"
    odd.mkdir()
    torch.save(latent(0), odd / "0.pt")
    (tmp_path / "headwater.toml").write_text('source = "./run:3"\n')
    assert len(hw.StreamingDataset.open(tmp_path / "headwater.toml")) == 1


def test_a_pickle_keeps_its_samples_when_others_list_a_folder_that_grew(tmp_path: Path) -> None:
    torch.save(latent(0), tmp_path / "0.pt")
    data = pickle.dumps(hw.StreamingDataset(tmp_path))
    torch.save(latent(1), tmp_path / "1.pt")
    assert len(hw.StreamingDataset(tmp_path)) == 2
    again = pickle.loads(data)
    assert len(again) == 1
    assert_same(again[0]["latents"], latent(0)["latents"])


def test_pairs_that_name_no_folder_of_one_place_are_refused(folder: Path) -> None:
    with pytest.raises(
        hw.ConfigError, match="`latnets`: `pairs` names a field that is not there; there are `conditions`, `latents`"
    ):
        hw.StreamingDataset(folder, pairs={"latnets": "latent_*"})
    with pytest.raises(hw.ConfigError, match="there is one without a name"):
        hw.StreamingDataset(folder / "latents", pairs={"latents": "latent_*"})
    assert hw.StreamingDataset(folder / "latents", pairs={"": "latent_*"}).key(0) == "0000"


def test_objects_beside_the_folders_of_one_place_are_counted(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "x").mkdir()
    for path in (tmp_path / "x/0.pt", tmp_path / "loose.pt"):
        torch.save(latent(0), path)
    with caplog.at_level(logging.WARNING, "headwater"):
        assert hw.StreamingDataset(tmp_path).fields == ["x"]
    assert "1 objects lie beside the folders" in caplog.text


def test_links_to_nowhere_are_passed_over(tmp_path: Path) -> None:
    torch.save(latent(0), tmp_path / "0.pt")
    (tmp_path / "loop.pt").symlink_to("loop.pt")
    (tmp_path / "gone.pt").symlink_to("nothing.pt")
    assert len(hw.StreamingDataset(tmp_path)) == 1


@pytest.mark.parametrize("compression", ["auto", "zstd", "none"])
def test_a_cache_holds_more_of_what_compresses_and_gives_it_back_bit_for_bit(tmp_path: Path, compression: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    values = [torch.randn(64, 4096, generator=generator).bfloat16().float() for _ in range(12)]
    for number, value in enumerate(values):
        torch.save({"x": value, "mask": value > 1}, tmp_path / f"{number:02}.pt")
    # Of 12 samples of 1.3 MB each, four have room as they are: three, where they are in buffers from before, a quarter larger.
    dataset = hw.StreamingDataset(tmp_path, cache=hw.CacheConfig(memory="6MB", policy="keep", compression=compression))
    wanted = 3 if compression == "none" else 10

    def walked() -> bool:
        for sample, value in zip(dataset, values, strict=True):
            assert torch.equal(sample["x"].view(torch.int32), value.view(torch.int32))
            assert torch.equal(sample["mask"], value > 1)
        return dataset.stats()["cache_memory_entries"] >= wanted

    # What comes while others are being packed is kept another time.
    waiting.until(walked, "what has room is kept")
    assert walked()
    entries = dataset.stats()["cache_memory_entries"]
    assert 3 <= entries <= 4 if compression == "none" else entries > 9
    assert dataset.stats()["cache_memory_bytes"] <= 6_000_000


def test_what_has_room_as_it_is_is_not_compressed(tmp_path: Path) -> None:
    torch.save(torch.zeros(1_000_000), tmp_path / "0.pt")
    roomy, tight = (
        hw.StreamingDataset(tmp_path, cache=hw.CacheConfig(memory=memory, policy="keep")) for memory in ("8MB", "4.4MB")
    )
    for dataset in (roomy, tight):
        dataset[0]
        assert dataset[0]["data"].count_nonzero() == 0
        # Kept behind whoever reads.
        waiting.until(lambda kept=dataset: kept.stats()["cache_memory_entries"] == 1, "it is kept")
    assert roomy.stats()["cache_memory_bytes"] > 4_000_000
    assert tight.stats()["cache_memory_bytes"] < 100_000
