"""Values to keep in the adapter's cache, and both of its forms at once."""

from __future__ import annotations

import asyncio
from typing import Any

import torch

from headwater.adapter import SmartLRUCache
from same import assert_same

MB = 1e-3


def latents(seed: int = 0, shape: tuple[int, ...] = (128, 5, 32, 32)) -> torch.Tensor:
    """What a model computed in bfloat16 and stored as float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16().float()


def sample(seed: int = 0) -> dict[str, Any]:
    return {"latents": latents(seed), "num_frames": 5, "fps": 24.0, "name": f"clip {seed}"}


def both(cache: SmartLRUCache, key: str, value: Any, compress: bool = True) -> Any:
    """Puts a value in and gets it, in a coroutine; and checks that the blocking form says the same."""

    async def work() -> Any:
        assert await cache.put(key, value, compress=compress)
        return await cache.get(key)

    found = asyncio.run(work())
    assert_same(cache.get_sync(key), found)
    return found


class Thing:
    pass
