"""Folders of precomputed samples as existing trainers name them: which samples there are, their names, their values."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import headwater as hw
from headwater.adapter import PrecomputedDataset
from same import assert_same

SAMPLES = 5
FRAMES, HEIGHT, WIDTH, CHANNELS = 3, 4, 5, 8


def latent(number: int, *, is_patchified: bool = False) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(number)
    planes = torch.randn(CHANNELS, FRAMES, HEIGHT, WIDTH, generator=generator)
    kept = planes.permute(1, 2, 3, 0).reshape(-1, CHANNELS).contiguous() if is_patchified else planes
    return {"latents": kept, "num_frames": FRAMES, "height": HEIGHT, "width": WIDTH, "fps": 24.0}


def condition(number: int) -> dict[str, Any]:
    return {"prompt_embeds": torch.full((7, 3), float(number)), "prompt": f"clip {number}"}


def write(root: Path, *, is_patchified: bool = False, samples: int = SAMPLES) -> Path:
    for name in ("latents", "conditions"):
        (root / name / "train").mkdir(parents=True)
    for number in range(samples):
        torch.save(latent(number, is_patchified=is_patchified), root / f"latents/train/latent_{number:04}.pt")
        torch.save(condition(number), root / f"conditions/train/condition_{number:04}.pt")
    return root


def check(dataset: Any, numbers: list[int]) -> None:
    assert len(dataset) == len(numbers)
    for index, number in enumerate(numbers):
        sample = dataset[index]
        assert list(sample) == ["latent_conditions", "text_conditions", "idx"]
        assert sample["idx"] == index
        assert_same(sample["latent_conditions"], latent(number))
        assert_same(sample["text_conditions"], condition(number))


def test_latents_and_conditions_are_paired_by_number_under_the_usual_keys(tmp_path: Path) -> None:
    check(PrecomputedDataset(write(tmp_path)), list(range(SAMPLES)))


def test_the_folder_of_preprocessing_is_found_within_the_root(tmp_path: Path) -> None:
    write(tmp_path / ".precomputed")
    for root in (tmp_path, str(tmp_path), tmp_path / ".precomputed"):
        check(PrecomputedDataset(root), list(range(SAMPLES)))


def test_folders_may_be_listed_or_mapped(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "reference").mkdir()
    for number in range(SAMPLES):
        torch.save(torch.tensor(number), tmp_path / f"reference/{number:04}.pt")
        for name, old in (("latents", "latent"), ("conditions", "condition")):
            (tmp_path / f"{name}/train/{old}_{number:04}.pt").rename(tmp_path / f"{name}/{old}_{number:04}.pt")
    listed = PrecomputedDataset(tmp_path, ["latents", "reference"])
    assert list(listed[3]) == ["latents", "reference", "idx"]
    assert listed[3]["reference"] == 3
    mapped = PrecomputedDataset(tmp_path, {"conditions": "text", "reference": "reference"})
    assert list(mapped[2]) == ["text", "reference", "idx"]
    assert_same(mapped[2]["text"], condition(2))


def test_samples_that_lack_an_object_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path)
    (tmp_path / "conditions/train/condition_0001.pt").unlink()
    (tmp_path / "latents/train/latent_0003.pt").unlink()
    with caplog.at_level(logging.WARNING, logger="headwater"):
        dataset = PrecomputedDataset(tmp_path)
    check(dataset, [0, 2, 4])
    assert "conditions: train/0001" in caplog.text
    assert "latents: train/0003" in caplog.text
    with pytest.raises(FileNotFoundError, match="train/0001"):
        PrecomputedDataset(tmp_path, on_missing="error")


def test_patchified_latents_come_back_as_planes_and_cost_no_copy(tmp_path: Path) -> None:
    dataset = PrecomputedDataset(write(tmp_path, is_patchified=True))
    for number in range(SAMPLES):
        latents = dataset[number]["latent_conditions"]["latents"]
        assert latents.shape == (CHANNELS, FRAMES, HEIGHT, WIDTH)
        assert torch.equal(latents, latent(number)["latents"])
        assert latents.stride() == (1, HEIGHT * WIDTH * CHANNELS, WIDTH * CHANNELS, CHANNELS)


@pytest.mark.parametrize("memory", [0, "100MB"], ids=["unkept", "kept"])
def test_patchified_latents_are_planes_in_batches_too(tmp_path: Path, memory: Any) -> None:
    dataset = PrecomputedDataset(write(tmp_path, is_patchified=True), cache=hw.CacheConfig(memory=memory))
    expected = torch.stack([latent(number)["latents"] for number in range(SAMPLES)])
    for _ in range(2):
        (plain,) = DataLoader(dataset, SAMPLES)
        assert torch.equal(plain["latent_conditions"]["latents"], expected)
        assert plain["idx"].tolist() == list(range(SAMPLES))
        with hw.StreamingDataLoader(dataset, SAMPLES, shuffle=False) as loader:
            for batch in loader:
                assert torch.equal(batch["latent_conditions"]["latents"], expected)


def test_patchified_latents_of_another_size_are_an_error_that_names_the_sample(tmp_path: Path) -> None:
    write(tmp_path, is_patchified=True)
    torch.save({**latent(2, is_patchified=True), "width": WIDTH + 1}, tmp_path / "latents/train/latent_0002.pt")
    dataset = PrecomputedDataset(tmp_path)
    with pytest.raises(hw.CorruptDataError, match=r"train/0002[\s\S]*60 rows of 8 for 3 frames of 4 x 6"):
        dataset[2]
    assert dataset[1]["latent_conditions"]["latents"].shape == (CHANNELS, FRAMES, HEIGHT, WIDTH)


def test_two_dimensions_that_are_no_latents_stay(tmp_path: Path) -> None:
    (tmp_path / "conditions").mkdir()
    torch.save({"prompt_embeds": torch.zeros(6, 2)}, tmp_path / "conditions/0.pt")
    sample = PrecomputedDataset(tmp_path, ["conditions"])[0]
    assert sample["conditions"]["prompt_embeds"].shape == (6, 2)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        PrecomputedDataset(tmp_path / "nowhere")
    write(tmp_path)
    with pytest.raises(FileNotFoundError, match="masks"):
        PrecomputedDataset(tmp_path, ["latents", "masks"])
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="no folder"):
        PrecomputedDataset(tmp_path / "file")
    with pytest.raises(TypeError, match="int"):
        PrecomputedDataset(tmp_path, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`x`: two fields"):
        PrecomputedDataset(tmp_path, {"latents": "x", "conditions": "x"})
    with pytest.raises(ValueError, match="`idx`"):
        PrecomputedDataset(tmp_path, {"latents": "idx"})
    dataset = PrecomputedDataset(tmp_path)
    for index in (SAMPLES, -SAMPLES - 1):
        with pytest.raises(IndexError, match=str(index)):
            dataset[index]
    assert dataset[-1]["idx"] == SAMPLES - 1


@pytest.mark.parametrize("workers", [0, 2])
def test_it_is_a_dataset_of_torchs_in_any_loader(tmp_path: Path, workers: int) -> None:
    dataset = PrecomputedDataset(write(tmp_path))
    assert isinstance(dataset, Dataset)
    loader: DataLoader[Any] = DataLoader(dataset, 2, shuffle=True, num_workers=workers)
    seen = []
    for batch in loader:
        for place, number in enumerate(batch["idx"].tolist()):
            assert torch.equal(batch["latent_conditions"]["latents"][place], latent(number)["latents"])
            assert batch["text_conditions"]["prompt"][place] == f"clip {number}"
            seen.append(number)
    assert sorted(seen) == list(range(SAMPLES))


def test_it_is_pickled_with_its_names(tmp_path: Path) -> None:
    again = pickle.loads(pickle.dumps(PrecomputedDataset(write(tmp_path))))
    assert type(again) is PrecomputedDataset
    check(again, list(range(SAMPLES)))
