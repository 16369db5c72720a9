"""The names and behaviour that trainers of an older, pure-Python loader were written against, over this one's core.

They change an import line. Methods that are coroutines have a blocking form whose name ends in ``_sync``, for use with or
without a running event loop.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from headwater.adapter.cache import CacheMetrics, SmartLRUCache
from headwater.adapter.config import DataSourceConfig
from headwater.adapter.prefetcher import AsyncPrefetcher, PrefetchMetrics
from headwater.adapter.sources import (
    AzureDataSource,
    DataSource,
    GCSDataSource,
    HTTPDataSource,
    HuggingFaceDataSource,
    LocalDataSource,
    S3DataSource,
    create_data_source,
)

if TYPE_CHECKING:
    from headwater.adapter.dataset import StreamingDatasetAdapter, create_streaming_dataset_from_config
    from headwater.adapter.precomputed import PrecomputedDataset

__all__ = [
    "AsyncPrefetcher",
    "AzureDataSource",
    "CacheMetrics",
    "DataSource",
    "DataSourceConfig",
    "GCSDataSource",
    "HTTPDataSource",
    "HuggingFaceDataSource",
    "LocalDataSource",
    "PrecomputedDataset",
    "PrefetchMetrics",
    "S3DataSource",
    "SmartLRUCache",
    "StreamingDatasetAdapter",
    "create_data_source",
    "create_streaming_dataset_from_config",
]

# What is a `Dataset` of torch's: that takes seconds to import, and is not there everywhere.
_LATER = {
    "PrecomputedDataset": "precomputed",
    "StreamingDatasetAdapter": "dataset",
    "create_streaming_dataset_from_config": "dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
