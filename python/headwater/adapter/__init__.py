"""The names that existing trainers were written against: they change an import line and gain everything else.

from headwater.adapter import DataSourceConfig, StreamingDatasetAdapter
"""

from headwater.adapter.config import DataSourceConfig
from headwater.adapter.dataset import StreamingDatasetAdapter, create_streaming_dataset_from_config
from headwater.adapter.precomputed import PrecomputedDataset
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
    "AzureDataSource",
    "DataSource",
    "DataSourceConfig",
    "GCSDataSource",
    "HTTPDataSource",
    "HuggingFaceDataSource",
    "LocalDataSource",
    "PrecomputedDataset",
    "S3DataSource",
    "StreamingDatasetAdapter",
    "create_data_source",
    "create_streaming_dataset_from_config",
]
