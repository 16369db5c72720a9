"""Settings of caching, fetching and fetching ahead."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from headwater.errors import ConfigError

Size: TypeAlias = str | int
Span: TypeAlias = str | float


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """What is kept of what was read.

    Args:
        memory: capacity of the memory tier of each process, in bytes or like ``"8GB"``; 0 keeps nothing. By default nothing for
            a dataset alone; once a loader walks it, the smaller of 4 GB and a quarter of the memory there is, shared by the
            ranks of this machine. More than a process's share of that memory is not granted, with a warning.
        disk: folder of the disk tier, which all processes of a machine share and later runs find again: an empty or new one, on
            a local disk. None by default. Local sources are not kept there.
        disk_capacity: bytes that the folder may take; by default four fifths of what is free there and of what it has already.
        policy: what a full tier gives up: ``"lru"``, ``"keep"`` (nothing: newcomers are declined), or ``"auto"``: keep once a
            loader walks epochs, lru before.
        compression: whether tensors are kept compressed, lossless: ``"auto"`` (also spelt ``"zstd"``), those that shrink by a
            quarter at least, or with a disk by a tenth, unless memory has room for all of the dataset as it is; or ``"none"``.
        ttl: how long a value is used without asking whether its object is still the same: ``"24h"``, or seconds. By default for
            ever, as always of a commit of the Hub.

    """

    memory: Size | None = None
    disk: str | os.PathLike[str] | None = None
    disk_capacity: Size | None = None
    policy: Literal["auto", "lru", "keep"] = "auto"
    compression: Literal["auto", "zstd", "none"] = "auto"
    ttl: Span | None = None


@dataclass(frozen=True, kw_only=True)
class PrefetchConfig:
    """The queue of samples that are fetched because :meth:`StreamingDataset.prefetch` or a :class:`Sampler` asks for it.

    Args:
        queue: samples that may wait; what comes when so many do is dropped and counted.
        memory: of what is under way and of what nobody has read yet, in bytes or like ``"1GB"``; by default the smaller of
            1 GB and a sixteenth of the memory this process may use.
        ahead: samples that are fetched ahead of whoever reads one sample after the other by index; none by default.

    """

    queue: int = 1024
    memory: Size | None = None
    ahead: int = 0


@dataclass(frozen=True, kw_only=True)
class Throttle:
    """A remote to emulate, for demonstrations and benchmarks; announced in the log.

    Args:
        first_byte: time to the first byte of every answer, in seconds or like ``"30ms"``.
        stream_rate: bytes per second of one stream, or like ``"100MB"``.
        total_rate: bytes per second of all streams together.

    """

    first_byte: Span | None = None
    stream_rate: Size | None = None
    total_rate: Size | None = None


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """How sources are asked. Times are seconds or like ``"30s"``, sizes bytes or like ``"8MB"``.

    Args:
        max_concurrency: requests under way at once per source, at most; how many is found out below that. 256 by default.
        deadline: for one object in all, further tries included, and a second more per megabyte; 60 s by default.
        connect_timeout: for a connection; 5 s by default.
        no_progress_timeout: for the next byte of an answer; 15 s by default.
        retries: further tries after the first, within the deadline; 8 by default.
        hedge: second requests for what takes longer than 95 of 100 others did, as a share of all requests; 0.05 by default, 0
            for none.
        max_bandwidth: bytes per second of all replicas of a source together, at most; unlimited by default.
        part_size: of the parts that objects of four parts and more are read in; 8 MiB by default, 0 reads everything whole.
        verify: ``"auto"`` checks whole objects against the checksums that servers name, where that is cheap; or ``"never"``.
        throttle: a remote to emulate.

    """

    max_concurrency: int | None = None
    deadline: Span | None = None
    connect_timeout: Span | None = None
    no_progress_timeout: Span | None = None
    retries: int | None = None
    hedge: float | None = None
    max_bandwidth: Size | None = None
    part_size: Size | None = None
    verify: Literal["auto", "never"] | None = None
    throttle: Throttle | None = None


def as_json(config: dict[str, Any]) -> str:
    """A configuration as the core reads it.

    Raises:
        ConfigError: a setting is neither text, number nor truth value, or not finite; the message names it.

    """
    return json.dumps({name: _plain(name, value) for name, value in config.items()})


def state_as_json(state: Any) -> str:
    """A loader's state as the core reads it.

    Raises:
        ConfigError: it is no dict of plain settings.

    """
    if not isinstance(state, dict):
        raise ConfigError(f"cannot restore a `{type(state).__name__}`: it is not what state_dict() returns")
    return as_json(state)


def _plain(name: str, value: Any, depth: int = 0) -> Any:
    if isinstance(value, dict):
        return {inner: _plain(f"{name}.{inner}", setting, depth + 1) for inner, setting in value.items()}
    may_be_replicas = name == "source" if depth == 0 else depth == 1 and name.startswith("fields.")
    if isinstance(value, list) and may_be_replicas:
        return [_plain(name, item, depth + 1) for item in value]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    # A number of numpy or torch, as such code computes them.
    if hasattr(value, "item") and not getattr(value, "ndim", 1):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"cannot use `{name}`: {value} is no setting; give a finite number")
    if not isinstance(value, str | int | float | None):
        # The value itself may be a credential.
        raise ConfigError(
            f"cannot use `{name}`: a `{type(value).__name__}` is no setting; give text, a number or a truth value"
        )
    return value


def given(config: CacheConfig | FetchConfig | PrefetchConfig | None) -> dict[str, Any]:
    """The settings that were given, as the core reads them."""
    return {} if config is None else _without_none(asdict(config))


def _without_none(settings: dict[str, Any]) -> dict[str, Any]:
    pairs = ((name, _without_none(value) if isinstance(value, dict) else value) for name, value in settings.items())
    return {name: value for name, value in pairs if value is not None}
