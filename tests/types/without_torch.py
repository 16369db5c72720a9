"""Code of a user without torch, as `mypy --strict` reads it where torch is not installed. Checked by `make lint`, never run."""

from __future__ import annotations

import headwater as hw

dataset = hw.StreamingDataset("/data", framework="numpy", transform=lambda sample: sample["x"])
print(len(dataset), dataset[0], dataset[[0, -1]], dataset.key(0).upper(), dataset.fields[0].upper())
for name, number in dataset.stats().items():
    print(name.upper(), number + 1)
for batch in hw.StreamingDataLoader(dataset, batch_size=8):
    print(batch)
