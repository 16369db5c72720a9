"""The names and behaviour that trainers of an older, pure-Python loader were written against, over this one's core.

They change an import line. Methods that are coroutines have a blocking form whose name ends in ``_sync``, for use with or
without a running event loop.
"""

from headwater.adapter.cache import CacheMetrics, SmartLRUCache
from headwater.adapter.config import DataSourceConfig
from headwater.adapter.dataset import StreamingDatasetAdapter, create_streaming_dataset_from_config
from headwater.adapter.precomputed import PrecomputedDataset
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
