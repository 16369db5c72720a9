"""Which data-parallel process this is."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakKeyDictionary

from headwater.errors import ConfigError

_logger = logging.getLogger("headwater")


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


@dataclass(frozen=True)
class Facts:
    """What ranks compare of a dataset. The content is None where versions are not known."""

    origin: str
    samples: int
    order_fingerprint: str
    size_fingerprint: str
    content_fingerprint: str | None

    def differences(self, there: Facts) -> list[str]:
        """What differs from the same dataset elsewhere, in words."""
        own, theirs = asdict(self), asdict(there)
        # Ranks may reach the same objects in different places.
        names = [name for name in own if name != "origin" and own[name] is not None and theirs[name] is not None]
        return [f"{name} ({theirs[name]} there, {own[name]} here)" for name in names if theirs[name] != own[name]]


# Datasets that this process has compared so far, by the store that ranks share and by their fields.
_compared: WeakKeyDictionary[Any, Counter[str]] = WeakKeyDictionary()
# How long the first rank may take to make its loader; and how long to go on looking once it has made one of the same origin.
_COMPARE_SECONDS = 60.0
_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.1


def compare_with_first_rank(fields: str, facts: Facts) -> None:
    """Makes sure that all ranks of ``torch.distributed`` walk the same dataset; does nothing where that is not up.

    The first rank leaves what it knows of each dataset that it makes a loader of, and every other rank looks for its own
    among those of the same fields: no collective, so that it works with every backend, whatever loaders the first rank makes
    besides. A rank that finds none to compare with warns and goes on. A loader that a rank makes for itself is given
    ``rank`` and ``world_size``.

    Raises:
        ConfigError: this rank has another dataset; the message names what differs.

    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return
    store, count = distributed.distributed_c10d._get_default_store(), f"headwater/datasets/{fields}"
    if distributed.get_rank() == 0:
        store.set(f"{count}/{store.add(count, 1) - 1}", json.dumps(asdict(facts)))
        return
    compared = _compared.setdefault(store, Counter())
    number = compared[fields]
    compared[fields] += 1
    began, enough_since, seen = time.monotonic(), None, list[Facts]()
    while True:
        known = store.add(count, 0)
        fresh = [Facts(**json.loads(store.get(f"{count}/{at}"))) for at in range(len(seen), known)]
        # The first rank goes on making loaders: the next one may be it.
        seen, enough_since = seen + fresh, None if fresh else enough_since
        if any(not facts.differences(other) for other in seen):
            return
        now = time.monotonic()
        if known > number:
            enough_since = enough_since or now
            # One of another origin may be a loader that the first rank alone has made.
            has_this_origin = seen[-1].origin == facts.origin
            if now - enough_since > (_GRACE_SECONDS if has_this_origin else _COMPARE_SECONDS):
                break
        elif now - began > _COMPARE_SECONDS:
            _logger.warning(
                "rank 0 has made no loader of the fields %s within %d s: not compared with it", fields, _COMPARE_SECONDS
            )
            return
        time.sleep(_POLL_SECONDS)
    closest = next((other for other in seen if other.origin == facts.origin), seen[number])
    raise ConfigError(
        f"cannot load: rank {distributed.get_rank()} has another dataset than rank 0: "
        f"{', '.join(facts.differences(closest))}; give every rank the same sources, or the manifest of one listing "
        "(manifest=)"
    )
