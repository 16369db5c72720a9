"""The command as Python installs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CONSOLE_SCRIPT = [str(Path(sys.executable).with_name("headwater"))]


@pytest.mark.parametrize("command", [CONSOLE_SCRIPT, [sys.executable, "-m", "headwater"]], ids=["console script", "module"])
def test_the_command_runs(command: list[str], tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3)}, tmp_path / "x.pt")
    shown = subprocess.run([*command, "inspect", str(tmp_path / "x.pt"), "--json"], check=True, capture_output=True, text=True)
    assert json.loads(shown.stdout)["value"]["items"][0]["value"]["shape"] == [3]
    missing = subprocess.run([*command, "ls", "/nowhere/at/all"], check=False, capture_output=True, text=True)
    assert missing.returncode == 3
    assert "cannot open directory `/nowhere/at/all`" in missing.stderr


def test_torch_reads_the_demo_set(tmp_path: Path) -> None:
    subprocess.run([*CONSOLE_SCRIPT, "demo", "--write", str(tmp_path / "set"), "--small", "--samples", "2"], check=True)
    value = torch.load(tmp_path / "set/latents/latent_00001.pt", weights_only=True)
    assert value["latents"].shape == (16, 1, 32, 32)
    assert torch.equal(value["latents"], value["latents"].bfloat16().float())
    neighbours = torch.corrcoef(torch.stack([value["latents"][..., :-1].flatten(), value["latents"][..., 1:].flatten()]))[0, 1]
    assert 0.85 < neighbours < 0.95
    condition = torch.load(tmp_path / "set/conditions/condition_00001.pt", weights_only=True)
    length = int(condition["prompt_attention_mask"].sum())
    assert 1 <= length <= 8
    assert not condition["prompt_embeds"][length:].any()
