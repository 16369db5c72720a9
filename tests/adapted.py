"""A small set of samples, and datasets of the adapter over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import headwater as hw
from headwater.adapter import DataSourceConfig, StreamingDatasetAdapter
from servers.testkit import Testkit

SAMPLES = 24
Servers = Callable[[Path], Testkit]


def latent(number: int) -> dict[str, Any]:
    # Like latents: what bf16 holds, kept in fp32.
    generator = torch.Generator().manual_seed(number)
    return {"latents": torch.randn(16, 2, 8, 8, generator=generator).bfloat16().float(), "fps": 24.0}


def condition(number: int) -> dict[str, Any]:
    return {"prompt_embeds": torch.full((8, 64), float(number)), "prompt": f"clip {number}"}


def expected(number: int) -> dict[str, Any]:
    return {"latent_conditions": latent(number), "text_conditions": condition(number), "idx": number}


def write(root: Path, samples: int = SAMPLES) -> Path:
    for name in ("latents", "conditions"):
        (root / name).mkdir(parents=True)
    for number in range(samples):
        torch.save(latent(number), root / f"latents/latent_{number:04}.pt")
        torch.save(condition(number), root / f"conditions/condition_{number:04}.pt")
    return root


def local(folder: Path) -> list[DataSourceConfig]:
    return [DataSourceConfig(name, "local", str(folder / name)) for name in ("latents", "conditions")]


def remote(server: Testkit, name: str, folder: str = "", **other: Any) -> DataSourceConfig:
    credentials = {
        "aws_access_key_id": "any",
        "aws_secret_access_key": "any",
        "endpoint_url": server.endpoint,
        "region_name": server.region,
    }
    return DataSourceConfig(name, "s3", f"{server.bucket}/{folder or name}", credentials, **other)


def adapter(sources: list[DataSourceConfig], **arguments: Any) -> StreamingDatasetAdapter:
    # Without second requests for what takes long: some tests count.
    fetch = hw.FetchConfig(hedge=0)
    return StreamingDatasetAdapter(sources, **{"cache_size_gb": 0.5, "fetch": fetch, **arguments})
