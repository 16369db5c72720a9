"""Which data-parallel process this is."""

from __future__ import annotations

import os
import sys

from headwater.errors import ConfigError


def rank_and_world_size(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Takes what is given; else what ``torch.distributed`` says; else ``RANK`` and ``WORLD_SIZE``; else a single process.

    Raises:
        ConfigError: only one of the two is given.

    """
    if (rank is None) != (world_size is None):
        raise ConfigError("give both rank and world_size, or neither")
    if rank is not None and world_size is not None:
        return rank, world_size
    # Whoever uses it has imported it.
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    try:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError as error:
        raise ConfigError(f"RANK and WORLD_SIZE must be integers: {error}") from error
