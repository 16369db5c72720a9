"""How many workers of torch's ``DataLoader`` share this process's memory with it."""

from __future__ import annotations

import functools
import os
import sys

from headwater import _headwater


@functools.cache
def tell() -> None:
    """Says to the core how many workers there are, if this is one: once per process, as they are known only once they run."""
    # Whoever uses it has imported it.
    data = sys.modules.get("torch.utils.data")
    worker = None if data is None else data.get_worker_info()
    if worker is not None:
        _headwater.share_among_workers(worker.num_workers)


os.register_at_fork(after_in_child=tell.cache_clear)
