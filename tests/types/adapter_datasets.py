"""Code of a trainer that uses the adapter's datasets, as `mypy --strict` reads it. Checked by `make lint`, never run."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, Dataset

import headwater as hw
from headwater.adapter import (
    DataSource,
    DataSourceConfig,
    LocalDataSource,
    PrecomputedDataset,
    StreamingDatasetAdapter,
    create_data_source,
    create_streaming_dataset_from_config,
)


def take(dataset: Dataset[Any]) -> None:
    """Takes what torch calls a dataset."""
    del dataset


async def read(source: DataSource) -> None:
    """Uses every method of a source."""
    value: dict[str, Any] = await source.fetch_file("x.pt", decompress=False)
    there: dict[str, bool] = await source.prefetch_files(["x.pt"])
    names: list[str] = source.list_files("folder")
    print(value, there, names, source.fetch_file_sync("x.pt"), source.prefetch_files_sync(names), source.config.name)


latents = DataSourceConfig("latents", "s3", "s3://bucket/latents", {"region_name": "eu"})
spare = DataSourceConfig(name="spare", source_type="local", path_or_uri="/data/latents", replicas_of="latents")
print(create_data_source(latents), LocalDataSource(spare))

dataset = StreamingDatasetAdapter([latents, spare], {"latents": "x"}, 100.0, 3600.0, 10, True, "zstd", policy="lru")
take(dataset)
for batch in DataLoader(dataset, batch_sampler=hw.Sampler(dataset, batch_size=8, shuffle=True)):
    print(batch["x"])
dataset.start_prefetch_worker()
queued: int = dataset.prefetch_batch(range(8))
dataset.stop_prefetch_worker()
stats: dict[str, int | float] = dataset.get_cache_stats()
dataset.reset_metrics()
dataset.clear_cache()
print(queued, stats["hit_rate"], dataset[0]["idx"])

take(create_streaming_dataset_from_config({"sources": [{"name": "x", "type": "local", "path": "/data/x"}]}))
take(PrecomputedDataset("/data", ["latents"], cache=hw.CacheConfig(memory="8GB")))
