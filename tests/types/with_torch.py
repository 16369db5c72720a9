"""Code of a user who trains with torch, as `mypy --strict` reads it. Checked by `make lint`, never run."""

from __future__ import annotations

from typing import Any

from torch.distributed import new_group
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

import headwater as hw


def take(dataset: Dataset[Any]) -> None:
    """Takes what torch calls a dataset."""
    del dataset


dataset = hw.StreamingDataset({"latents": hw.Source("s3://bucket/latents", region="eu"), "conditions": "/data"})
take(dataset)
for batch in DataLoader(dataset, batch_size=8, shuffle=True, num_workers=2):
    print(batch["latents"])
print(len(Subset(dataset, [0, 1])), len(ConcatDataset([dataset, dataset])))

mesh = init_device_mesh("cuda", (2, 4), mesh_dim_names=("dp", "tp"))
print(
    len(hw.StreamingDataLoader(dataset, process_group=mesh["dp"])),
    len(hw.StreamingDataLoader(dataset, process_group=new_group([0, 1]))),
)
loader = hw.StreamingDataLoader(dataset, batch_size=8, replication=2)
for batch in loader:
    print(batch["conditions"])
