"""Streams training samples from object storage into PyTorch.

import headwater as hw

dataset = hw.StreamingDataset({"latents": "s3://bucket/latents", "conditions": "/data/conditions"})
for batch in hw.StreamingDataLoader(dataset, batch_size=8, shuffle=True): ...
"""

from headwater._headwater import __version__
from headwater.config import CacheConfig, FetchConfig, PrefetchConfig, Throttle
from headwater.dataset import StreamingDataset
from headwater.errors import (
    AccessDeniedError,
    ConfigError,
    CorruptDataError,
    DeadlineError,
    HeadwaterError,
    IndexOutOfRangeError,
    NotFoundError,
    ObjectChangedError,
    StorageError,
    UnavailableError,
    UnsupportedError,
)
from headwater.loader import StreamingDataLoader, open  # noqa: A004 - the name that users of `hw.open` expect
from headwater.object import load, loads, save
from headwater.sampler import Sampler
from headwater.source import Source
from headwater.transforms import sample_seed

__all__ = [
    "AccessDeniedError",
    "CacheConfig",
    "ConfigError",
    "CorruptDataError",
    "DeadlineError",
    "FetchConfig",
    "HeadwaterError",
    "IndexOutOfRangeError",
    "NotFoundError",
    "ObjectChangedError",
    "PrefetchConfig",
    "Sampler",
    "Source",
    "StorageError",
    "StreamingDataLoader",
    "StreamingDataset",
    "Throttle",
    "UnavailableError",
    "UnsupportedError",
    "__version__",
    "load",
    "loads",
    "open",
    "sample_seed",
    "save",
]
