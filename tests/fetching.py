"""A source of values that a test holds up, for prefetchers."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import torch

from headwater.adapter import AsyncPrefetcher


class Source:
    """Values by key, fetched by a coroutine that tells what it was asked; those named in `held` wait until they are let go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.held = threading.Event()
        self.held.set()
        self.under_way = 0

    async def __call__(self, key: str) -> Any:
        self.asked.append(key)
        self.under_way += 1
        try:
            await asyncio.sleep(0)
            while not self.held.is_set():
                await asyncio.sleep(0.002)
            if key.startswith("bad"):
                raise OSError(f"{key} is gone")
            return object() if key.startswith("odd") else {"key": key, "x": torch.full((1000,), len(self.asked))}
        finally:
            self.under_way -= 1


def settled(prefetcher: AsyncPrefetcher) -> bool:
    metrics = prefetcher.get_metrics()
    return metrics.waiting == 0 and metrics.in_flight == 0
