"""What is to be known of worker processes of torch's ``DataLoader``."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from types import CodeType

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
    """Whether the caller was called by a ``DataLoader`` that draws for its worker processes, be it torch's or torchdata's."""
    return _is_called_by(
        _method("torch.utils.data.dataloader", "_MultiProcessingDataLoaderIter", "_try_put_index"),
        _method(_TORCHDATA, "_StatefulMultiProcessingDataLoaderIter", "_try_put_index"),
    )


def keep_this() -> bool:
    """Whether the caller was called by torchdata's ``DataLoader`` as it notes the state of what it has just drawn from."""
    return _is_called_by(_method(_TORCHDATA, "_StatefulMultiProcessingDataLoaderIter", "_get_main_state"))


_TORCHDATA = "torchdata.stateful_dataloader.stateful_dataloader"


def _method(module: str, kind: str, name: str) -> CodeType | None:
    # Whoever uses it has imported it.
    method = getattr(getattr(sys.modules.get(module), kind, None), name, None)
    return getattr(method, "__code__", None)


def _is_called_by(*codes: CodeType | None) -> bool:
    frame = inspect.currentframe()
    while frame is not None:
        # Not its locals: before Python 3.13 whoever looks at them keeps them alive.
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


os.register_at_fork(after_in_child=tell.cache_clear)
