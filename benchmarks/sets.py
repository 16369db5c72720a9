"""The demo sets that benchmarks read, written once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PAIRS = {"latents": "latent_*", "conditions": "condition_*"}
_OPTIONS: dict[str, list[str]] = {"6.8 MB": [], "96 KB": ["--small"]}


def demo_set(size: str, samples: int) -> Path:
    """Writes the demo set of samples of that size, if it is not there yet."""
    folder = Path("target/bench/sets") / f"{size.replace(' ', '').replace('.', '_')}-{samples}"
    command = [sys.executable, "-m", "headwater", "demo", "--write", str(folder)]
    subprocess.run([*command, "--samples", str(samples), *_OPTIONS[size]], check=True)
    return folder
