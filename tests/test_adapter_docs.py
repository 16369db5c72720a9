"""The guide of the adapter: its code runs, from top to bottom, in a folder that has what it names."""

from __future__ import annotations

import ast
import asyncio
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

GUIDE = Path(__file__).parent.parent / "docs/adapter.md"


async def read(key: str) -> dict[str, Any]:
    return {"key": key}


def test_the_code_of_the_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("latents", "conditions"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for number in range(8):
        torch.save({"latents": torch.randn(8, 2, 4, 4)}, tmp_path / f"set/latents/latent_{number:04}.pt")
        embeddings = {"prompt_embeds": torch.randn(4, 16), "prompt": f"clip {number}"}
        torch.save(embeddings, tmp_path / f"set/conditions/condition_{number:04}.pt")
    shutil.copytree(tmp_path / "set", tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    names: dict[str, Any] = {
        "__name__": "guide",
        "latents": torch.randn(8, 2, 4, 4),
        "fetch_fn": lambda key: {"key": key},
        "read": read,
        "upcoming": ["latent_0002", "latent_0003"],
        "key": "latent_0002",
    }
    for number, block in enumerate(blocks):
        code = compile(block, f"{GUIDE.name}, block {number + 1}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        awaited = eval(code, names)
        if awaited is not None:
            asyncio.run(awaited)
    assert "latent_0001.pt" in capsys.readouterr().out
