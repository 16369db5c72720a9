"""Guides: their code runs, each from top to bottom, in a folder that has what it names; and their links lead somewhere."""

from __future__ import annotations

import ast
import asyncio
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"
GUIDES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def sample(number: int) -> dict[str, Any]:
    return {
        "latents": {"latents": torch.randn(8, 2, 4, 4)},
        "conditions": {"prompt_embeds": torch.randn(4, 16), "prompt": f"clip {number}"},
    }


def run(guide: str, names: dict[str, Any]) -> dict[str, Any]:
    """Executes the Python blocks of a guide one after the other; what they leave behind."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / guide).read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    names = {"__name__": "guide", **names}
    for number, block in enumerate(blocks):
        code = compile(block, f"{guide}, block {number + 1}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        awaited = eval(code, names)
        if awaited is not None:
            asyncio.run(awaited)
    return names


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, a folder ``set`` in it with what preprocessing wrote."""
    for number in range(8):
        for field, value in sample(number).items():
            folder = tmp_path / "set" / field
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(value, folder / f"{field.removesuffix('s')}_{number:04}.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:pin_memory=True does nothing here")
def test_a_trainer_is_changed_as_the_guide_says(root: Path) -> None:
    names = run("integration.md", {"root": root / "set"})
    assert names["latents"].shape == (4, 8, 2, 4, 4)
    # The state was taken behind the first batch of two.
    whole = [batch["__index__"].tolist() for batch in names["loader"].__class__(names["dataset"], 4, shuffle=True, seed=0)]
    assert names["rest"]["__index__"].tolist() == whole[1]


def test_samples_of_another_loader_are_written_out_as_the_guide_says(root: Path) -> None:
    names = run("migrating.md", {"root": root / "written", "samples": [sample(number) for number in range(6)]})
    assert len(names["dataset"]) == 6
    assert names["dataset"][3]["conditions"]["prompt"] == "clip 3"


def test_the_answers_to_questions_run(root: Path) -> None:
    assert len(run("faq.md", {})["dataset"]) == len(list((root / "set/latents").iterdir()))


async def read(key: str) -> dict[str, Any]:
    return {"key": key}


def test_the_adapter_does_what_its_guide_says(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(root / "set", root / "copy")
    latents, upcoming = torch.randn(8, 2, 4, 4), ["latent_0002", "latent_0003"]
    names = {"latents": latents, "fetch_fn": lambda key: {"key": key}, "read": read, "upcoming": upcoming, "key": upcoming[0]}
    run("adapter.md", names)
    assert "latent_0001.pt" in capsys.readouterr().out


@pytest.mark.parametrize("guide", GUIDES)
def test_links_lead_somewhere(guide: str) -> None:
    text = (DOCS / guide).read_text()
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        target = ((DOCS / guide).parent / link).resolve() if link else DOCS / guide
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}#{anchor}"


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
