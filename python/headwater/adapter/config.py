"""Where a source is, in the words of existing trainers."""

from __future__ import annotations

import math
import numbers
import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from headwater.credentials import CredentialsFunction
from headwater.errors import ConfigError
from headwater.source import Source

Credentials: TypeAlias = Mapping[str, Any] | CredentialsFunction

# Sizes are in GB of so many bytes.
GB = 1_000_000_000
# No memory is larger, and no process lives longer.
_MOST_BYTES = 2**62
_MOST_SECONDS = 2.0**40

# What is put before a place without a scheme, by type, and the schemes that places of the type have.
KINDS: dict[str, tuple[str, frozenset[str]]] = {
    "local": ("", frozenset({"file"})),
    "huggingface": ("hf://datasets/", frozenset({"hf"})),
    "s3": ("s3://", frozenset({"s3"})),
    "gcs": ("gs://", frozenset({"gs", "gcs"})),
    "azure": ("az://", frozenset({"az", "abfs", "abfss"})),
    "http": ("https://", frozenset({"http", "https"})),
}


@dataclass(frozen=True)
class DataSourceConfig:
    """One source: a name, a type and a place.

    Args:
        name: the field that its objects are of a sample; two sources of one name hold the same objects.
        source_type: ``"local"``, ``"huggingface"``, ``"s3"``, ``"gcs"``, ``"azure"`` or ``"http"``.
        path_or_uri: a path, or a URI with or without its scheme: ``"s3://bucket/latents"`` or ``"bucket/latents"``.
        credentials: how to reach it, as options of :class:`headwater.Source` or as boto3, gcsfs and others call them:
            ``aws_access_key_id``, ``endpoint_url``, ``region_name``, ``token``, ``account_name``, ...; or a function that
            returns them. By default the standard chains of the place.
        replicas_of: name of the source that this one holds the same objects as, to be read where that one fails.

    """

    name: str
    source_type: str
    path_or_uri: str
    # Never shown: they may be secret.
    credentials: Credentials | None = field(default=None, repr=False)
    replicas_of: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path_or_uri", os.fspath(self.path_or_uri))

    def __repr__(self) -> str:
        shown = repr(Source(self.path_or_uri)).removeprefix("<Source ").removesuffix(">")
        replicas = f", replicas_of={self.replicas_of!r}" if self.replicas_of else ""
        return f"DataSourceConfig(name={self.name!r}, source_type={self.source_type!r}, path_or_uri={shown}{replicas})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.credentials is not None:
            # Refuses to be pickled with explicit credentials, unless that is to start a worker.
            self.source().__reduce__()
        return DataSourceConfig, (self.name, self.source_type, self.path_or_uri, self.credentials, self.replicas_of)

    def __hash__(self) -> int:
        return hash((self.name, self.source_type, self.path_or_uri, self.replicas_of))

    # A copy is itself, as nothing of it changes; pickling is what its credentials are kept from.
    def __copy__(self) -> DataSourceConfig:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> DataSourceConfig:
        return self

    def source(self) -> Source:
        """The place as the rest of Headwater names it.

        Raises:
            ConfigError: there is no such type, or the place is none of it.

        """
        return source_of(self.source_type, self.path_or_uri, self.credentials)


def source_of(source_type: str, place: str, credentials: Credentials | None) -> Source:
    """The source of a type at a place.

    Raises:
        ConfigError: there is no such type, or the place is none of it.

    """
    if source_type not in KINDS:
        raise ConfigError(f"cannot use source type `{source_type}`: available are {', '.join(KINDS)}")
    prefix, schemes = KINDS[source_type]
    scheme, separator, rest = place.partition("://")
    if separator and scheme not in schemes:
        expected = " or ".join(f"{known}://…" for known in sorted(schemes))
        raise ConfigError(f"cannot use `{scheme}://…` as a source of type `{source_type}`: expected {expected}")
    if scheme == "gcs":
        place = f"gs://{rest}"
    # With or without what every place of the type begins with: "datasets/org/name".
    within = place.lstrip("/").removeprefix(prefix.partition("://")[2])
    uri = place if separator or not prefix or not place else f"{prefix}{within}"
    if credentials is None or not isinstance(credentials, Mapping):
        return Source(uri, credentials=credentials)
    if wrong := [name for name in credentials if not isinstance(name, str) or name == "uri"]:
        raise ConfigError(f"cannot use {wrong[0]!r} in credentials: give names of options, such as 'token'")
    return Source(uri, **credentials)


def memory_of(name: str, size_gb: float) -> int:
    """Bytes of a size in GB, endless ones included.

    Raises:
        ConfigError: it is no size; the message names the argument.

    """
    return round(min(_number(name, size_gb) * GB, _MOST_BYTES))


def ttl_of(name: str, seconds: float | None) -> float | None:
    """A time to live in seconds; ``None`` for ever.

    Raises:
        ConfigError: it is no time; the message names the argument.

    """
    if seconds is None or (given := _number(name, seconds)) > _MOST_SECONDS:
        return None
    return given


def whole(name: str, number: int, least: int = 0) -> int:
    """A whole number.

    Raises:
        ConfigError: it is none, or less than what makes sense; the message names the argument.

    """
    try:
        given = least - 1 if isinstance(number, bool) else operator.index(number)
    except TypeError:
        given = least - 1
    if given < least:
        raise ConfigError(f"cannot use {name} = {number!r}: give a whole number, {least} or more")
    return given


def _number(name: str, value: Any) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or math.isnan(value) or value < 0:
        raise ConfigError(f"cannot use {name} = {value!r}: give a number that is not negative")
    return float(value)
