"""Which data-parallel process this is."""

from __future__ import annotations

import itertools
import json
import os
import sys
from datetime import timedelta

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


# Loaders made so far, so that ranks compare the same ones.
_numbers = itertools.count()
# How long the first rank may take to make its loader.
_COMPARE_SECONDS = 300


def compare_with_first_rank(what: str, fingerprints: dict[str, str]) -> None:
    """Makes sure that all ranks of ``torch.distributed`` walk the same dataset; does nothing where that is not up.

    Every rank compares with the first one, through the store that the process group was made with: no collective, so that
    it works with every backend, and with a deadline of its own.

    Raises:
        ConfigError: this rank has another dataset; the message names what differs.

    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return
    store = distributed.distributed_c10d._get_default_store()
    key = f"headwater/{what}/{next(_numbers)}"
    if distributed.get_rank() == 0:
        store.set(key, json.dumps(fingerprints))
        return
    try:
        store.wait([key], timedelta(seconds=_COMPARE_SECONDS))
    except RuntimeError as error:
        raise ConfigError(f"rank 0 did not make its {what} within {_COMPARE_SECONDS} s; make it on every rank") from error
    first = json.loads(store.get(key))
    pairs = ((name, first.get(name), own) for name, own in fingerprints.items())
    different = [f"{name} ({there} there, {own} here)" for name, there, own in pairs if there != own]
    if different:
        raise ConfigError(
            f"cannot load: rank {distributed.get_rank()} has another dataset than rank 0: {', '.join(different)}; "
            "give every rank the same sources, or the manifest of one listing (manifest=)"
        )
