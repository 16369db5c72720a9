"""The adapter in a notebook, whose cells run in the event loop of their kernel."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from conftest import absent

from .conftest import SMALL as SAMPLES

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CELLS = [
    """
import asyncio, json
from headwater.adapter import AsyncPrefetcher, DataSourceConfig, SmartLRUCache, StreamingDatasetAdapter, create_data_source
from torch.utils.data import DataLoader

asyncio.get_running_loop()
configs = [DataSourceConfig(name, "local", f"{SET}/{name}") for name in ("latents", "conditions")]
dataset = StreamingDatasetAdapter(configs, cache_size_gb=0.2)
source, cache = create_data_source(configs[0]), SmartLRUCache(0.2)
names = source.list_files()
""",
    """
seen = [dataset[3]["idx"], dataset.prefetch_batch([5, 6])]
await dataset.start_prefetch_worker()
seen.append(sorted(number for batch in DataLoader(dataset, 8, shuffle=True) for number in batch["idx"].tolist()))
""",
    """
prefetcher = AsyncPrefetcher(cache, source.fetch_file)
prefetcher.start()
prefetcher.queue_item(names[0])
under_way = asyncio.ensure_future(prefetcher.get(names[1]))
await asyncio.sleep(0)
blocking = [prefetcher.get_sync(name)["latents"].shape == source.fetch_file_sync(name)["latents"].shape for name in names[:3]]
seen += [blocking, (await under_way).keys() == (await source.fetch_file(names[1])).keys()]
seen += [list(cache.prefetch_sync(names[3:5], source.fetch_file).values()), await cache.get("none")]
await prefetcher.stop()
""",
    "print(json.dumps(seen))",
]


def test_every_call_works_in_cells_blocking_and_awaited(small_set: Path, tmp_path: Path) -> None:
    if missing := [name for name in ("ipykernel", "nbclient") if importlib.util.find_spec(name) is None]:
        absent(f"not installed: {', '.join(missing)}; `make test-trainers` installs them")
    import nbclient
    import nbformat

    cells = [f"SET = {str(small_set)!r}", *CELLS]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said: list[Any] = [json.loads(output["text"]) for output in notebook.cells[-1].outputs]
    assert said == [[3, 2, list(range(SAMPLES)), [True] * 3, True, [True] * 2, None]]
