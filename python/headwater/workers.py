"""What is to be known of worker processes of torch's ``DataLoader``."""

from __future__ import annotations

import functools
import inspect
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


def draw_this() -> bool:
    """Whether the caller was called by a ``DataLoader`` that draws for its worker processes."""
    data = sys.modules.get("torch.utils.data.dataloader")
    # Not torchdata's, which keeps states by itself.
    kind = getattr(data, "_MultiProcessingDataLoaderIter", ())
    frame = inspect.currentframe()
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), kind):
            return True
        frame = frame.f_back
    return False


os.register_at_fork(after_in_child=tell.cache_clear)
