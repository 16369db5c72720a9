"""Streams training samples from object storage into PyTorch.

import headwater as hw

dataset = hw.StreamingDataset({"latents": "s3://bucket/latents", "conditions": "/data/conditions"})
"""

from headwater._headwater import __version__
from headwater.dataset import StreamingDataset, open  # noqa: A004 - the name that users of `hw.open` expect
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
from headwater.object import load, loads, save
from headwater.source import Source

__all__ = [
    "AccessDeniedError",
    "ConfigError",
    "CorruptDataError",
    "DeadlineError",
    "HeadwaterError",
    "IndexOutOfRangeError",
    "NotFoundError",
    "ObjectChangedError",
    "Source",
    "StorageError",
    "StreamingDataset",
    "UnavailableError",
    "UnsupportedError",
    "__version__",
    "load",
    "loads",
    "open",
    "save",
]
