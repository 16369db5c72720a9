"""Which data-parallel process this is."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from headwater import _headwater
from headwater.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

# The number is what `torch.distributed.new_group` returns where it made none.
Group: TypeAlias = "ProcessGroup | DeviceMesh | Literal[-100]"

_logger = logging.getLogger("headwater")


def find_ranks(rank: int | None = None, world_size: int | None = None) -> _headwater.Ranks:
    """Takes what is given; else what runs in this process and knows; else what launchers left in the environment.

    Raises:
        ConfigError: only one of two numbers is there, or they contradict each other; the message names them.

    """
    try:
        return _headwater.find_ranks(rank, world_size, told())
    except (TypeError, OverflowError) as error:
        raise ConfigError(f"cannot use rank={rank!r}, world_size={world_size!r}: {error}") from error


def told() -> tuple[int, int, int | None, int] | None:
    """What ``torch.distributed`` or Ray Train knows: rank, world size, processes of this machine, its accelerators."""
    distributed = _torch_distributed()
    if distributed is not None:
        return distributed.get_rank(), distributed.get_world_size(), None, _accelerators()
    # Whoever uses it has imported it, and runs in a worker.
    train = sys.modules.get("ray.train")
    if train is None or "RAY_RAYLET_PID" not in os.environ:
        return None
    try:
        context = train.get_context()
        return context.get_world_rank(), context.get_world_size(), context.get_local_world_size(), 0
    except RuntimeError:  # some other task of Ray
        return None


def join(
    compare: Callable[[int], None], rank: int | None, world_size: int | None, replication: int, process_group: Group | None
) -> tuple[_headwater.Ranks, dict[str, Any]]:
    """Finds this process's place among those that walk a dataset, and compares that with the first one's where it is found out.

    Returns:
        The place, and the settings of a loader that say it.

    Raises:
        ConfigError: the arguments contradict each other or what is known; or this rank has another dataset.

    """
    first = 0
    if process_group is not None:
        if (rank, world_size, replication) != (None, None, 1):
            raise ConfigError("process_group says it all: it goes with neither rank, world_size nor replication")
        rank, world_size, first, replication = member(process_group)
        # As the core counts: those that read the same one after the other.
        rank, world_size = rank * replication, world_size * replication
    ranks = find_ranks(rank, world_size)
    if ranks.world_size > 1 and (ranks.found != "given" or process_group is not None):
        compare(first)
    say_whose_ranks(ranks)
    return ranks, {"rank": ranks.rank, "world_size": ranks.world_size, "replication": replication}


def say_whose_ranks(ranks: _headwater.Ranks) -> None:
    """Says once that a loader takes a part of each epoch because of how its process was started, not of what it trains."""
    if ranks.found in ("Slurm", "MPI") and ranks.world_size > 1 and ranks.rank == 0:
        _say_whose(ranks.world_size, ranks.found)


@functools.cache
def _say_whose(count: int, launcher: str) -> None:
    _logger.warning(
        "each of %d processes reads its part of every epoch, as %s started so many; where they train apart, give rank=0, "
        "world_size=1",
        count,
        launcher,
    )


def _torch_distributed() -> Any | None:
    """``torch.distributed``, where it is up."""
    # Whoever uses it has imported it.
    distributed = sys.modules.get("torch.distributed")
    return distributed if distributed is not None and distributed.is_available() and distributed.is_initialized() else None


def _accelerators() -> int:
    # Not `is_available`, which may wake up the driver before workers are forked.
    torch: Any = sys.modules["torch"]
    return int(torch.cuda.device_count())


class Member(NamedTuple):
    """A place in a group of processes, the first process of it, and how many groups like it there are: they read the same."""

    rank: int
    world_size: int
    first: int
    replication: int


def member(group: Any) -> Member:
    """Where this process is in a ``ProcessGroup`` or ``DeviceMesh`` of torch.

    All dimensions of a mesh count, the last one fastest.

    Raises:
        ConfigError: it is none of these, or this process is not in it.

    """
    distributed = _torch_distributed()
    if distributed is None:
        raise ConfigError("cannot use process_group: torch.distributed is not initialised")
    if hasattr(group, "get_coordinate"):
        coordinate, rank = group.get_coordinate(), 0
        if coordinate is not None:
            for place, size in zip(coordinate, group.shape, strict=True):
                rank = rank * size + place
            return Member(rank, group.size(), int(group.mesh.flatten()[0]), distributed.get_world_size() // group.size())
    elif isinstance(group, distributed.ProcessGroup):
        processes = distributed.get_process_group_ranks(group)
        if distributed.get_rank() in processes:
            replication = distributed.get_world_size() // len(processes)
            return Member(distributed.get_rank(group), len(processes), processes[0], replication)
    elif group is not distributed.GroupMember.NON_GROUP_MEMBER:
        given = type(group).__name__
        raise ConfigError(f"cannot use a `{given}` as process_group: give a ProcessGroup or DeviceMesh of torch")
    raise ConfigError(f"cannot use process_group: rank {distributed.get_rank()} is not in it")


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


# Datasets that this process has compared so far, by the store that ranks share, and by their first rank and their fields.
_compared: WeakKeyDictionary[Any, Counter[str]] = WeakKeyDictionary()
# How long the first rank may take to make its loader; and how long to go on looking once it has made one of the same origin.
_COMPARE_SECONDS = 60.0
_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.1
# Many ranks look less often: one process answers them all.
_MAX_POLL_SECONDS, _RANKS_AT_FULL_PACE = 1.0, 100


def compare_with_first_rank(fields: str, facts: Facts, first: int = 0) -> None:
    """Makes sure that all ranks of ``torch.distributed``, or of a group with that first one, walk the same dataset.

    Does nothing where that is not up.

    The first rank leaves what it knows of each dataset that it makes a loader of, and every other rank looks for its own
    among those of the same fields: no collective, so that it works with every backend, whatever loaders the first rank makes
    besides. A rank that finds none to compare with warns and goes on. A loader that a rank makes for itself is given
    ``rank`` and ``world_size``.

    Raises:
        ConfigError: this rank has another dataset; the message names what differs.

    """
    distributed = _torch_distributed()
    if distributed is None:
        return
    store, count = distributed.distributed_c10d._get_default_store(), f"headwater/datasets/{first}/{fields}"
    if distributed.get_rank() == first:
        store.set(f"{count}/{store.add(count, 1) - 1}", json.dumps(asdict(facts)))
        return
    compared = _compared.setdefault(store, Counter())
    number = compared[count]
    compared[count] += 1
    pace = min(_MAX_POLL_SECONDS, _POLL_SECONDS * max(1.0, distributed.get_world_size() / _RANKS_AT_FULL_PACE))
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
                "rank %d has made no loader of the fields %s within %d s: not compared with it",
                first,
                fields,
                _COMPARE_SECONDS,
            )
            return
        time.sleep(pace)
    closest = next((other for other in seen if other.origin == facts.origin), seen[number])
    raise ConfigError(
        f"cannot load: rank {distributed.get_rank()} has another dataset than rank {first}: "
        f"{', '.join(facts.differences(closest))}; give every rank the same sources, or the manifest of one listing "
        "(manifest=)"
    )
