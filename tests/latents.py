"""Values as preprocessing writes them, for caches."""

from __future__ import annotations

from typing import Any

import torch


def latents(seed: int = 0, shape: tuple[int, ...] = (128, 5, 32, 32)) -> torch.Tensor:
    """What a model computed in bfloat16 and stored as float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16().float()


def sample(seed: int = 0) -> dict[str, Any]:
    return {"latents": latents(seed), "num_frames": 5, "fps": 24.0, "name": f"clip {seed}"}
