"""Datasets as existing trainers make them."""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

from headwater.adapter.config import GB, DataSourceConfig, memory_of, ttl_of, whole
from headwater.adapter.loops import Done
from headwater.config import CacheConfig, FetchConfig, PrefetchConfig, Size
from headwater.dataset import StreamingDataset
from headwater.errors import ConfigError
from headwater.frameworks import FrameworkName
from headwater.on_error import ErrorFunction, Verdict
from headwater.source import Source

if TYPE_CHECKING or importlib.util.find_spec("torch") is not None:
    from torch.utils.data import Dataset
else:

    class Dataset:
        """What torch calls one; torch is not installed."""

        __class_getitem__ = classmethod(lambda cls, _: cls)


DEFAULT_MAPPING: Mapping[str, str] = {"latents": "latent_conditions", "conditions": "text_conditions"}


class IndexedDataset(StreamingDataset, Dataset[Any]):
    """A dataset whose samples are ``{field: value, ..., "idx": index}``."""

    _index_name = "idx"

    def __init__(self, fields: Mapping[str, Any], names: Mapping[str, str], **arguments: Any) -> None:
        rename = {name: names[name] for name in fields if name in names}
        if self._index_name in {rename.get(name, name) for name in fields}:
            raise ConfigError(f"cannot call a field `{self._index_name}`: samples have their index there")
        arguments = {"guess_pairs": True, "restore_latents": True, "on_missing": "skip", **arguments}
        super().__init__(fields, rename=rename, **arguments)

    def _finish(self, sample: dict[str, Any]) -> Any:
        sample[self._index_name] = sample.pop("__index__")
        del sample["__key__"]
        return super()._finish(sample)


class StreamingDatasetAdapter(IndexedDataset):
    """Samples of several sources, cached and fetched ahead.

    Each source is a field: ``dataset[i]`` is ``{output key: value, ..., "idx": i}``, where a value is what the object decodes
    to, in memory of the caller's own. Objects are of one sample whose names agree, also where these differ in what fields are
    named after, as ``latent_0007.pt`` and ``condition_0007.pt`` do; samples that lack an object are left out, and a warning
    names the first few. Sources are listed once, when the dataset is made. Latents that were kept patchified, ``[seq, C]`` with
    ``num_frames``, ``height`` and ``width`` beside them, come as ``[C, F, H, W]``.

    Works in plain scripts, inside running event loops, in notebooks, in several threads at once, and in worker processes of
    ``DataLoader``, each of which has a cache of its own. It is a :class:`headwater.StreamingDataset`: a
    :class:`headwater.StreamingDataLoader` makes batches of it, and a :class:`headwater.Sampler` has samples fetched ahead in
    whatever order they come.

    Args:
        sources: the fields. Two of one name, or one that is ``replicas_of`` another, hold the same objects: what the first one
            cannot give is read from the next.
        data_mapping: source name → output key; sources that are not in it keep their name. By default
            ``{"latents": "latent_conditions", "conditions": "text_conditions"}``.
        cache_size_gb: memory of the cache of each process, in 10**9 bytes; what a process has no right to is not granted, with
            a warning.
        max_ttl_seconds: how long a value is used without asking whether its object is still the same; ``None`` for ever.
        prefetch_ahead: samples that are fetched ahead of whoever reads one after the other.
        enable_prefetch: whether anything is fetched ahead, until :meth:`start_prefetch_worker` or :meth:`stop_prefetch_worker`
            say otherwise.
        compression_type: ``"zstd"``: tensors are kept compressed, lossless, by our codec, where the cache has no room for all
            of them as they are and they shrink by a quarter at least; ``"none"``.
        policy: what a full cache gives up: nothing (``"keep"``, right for epochs), the least recently used (``"lru"``).
        pairs: source name → pattern of its file names, such as ``"latent_*"``, where it is not to be found out.
        restore_latents: whether patchified latents come as ``[C, F, H, W]``; ``False`` for those whose sizes beside them are of
            something else, such as the video.
        on_missing, on_error, on_changed, transform, framework: those of :class:`headwater.StreamingDataset`.
        disk, disk_capacity: those of :class:`headwater.CacheConfig`.
        fetch: how sources are asked.

    Raises:
        ConfigError: an argument cannot be meant.
        NotFoundError: a source does not exist or holds no sample.
        AccessDeniedError, UnavailableError, DeadlineError: a source cannot be reached, nor another one in its place.

    """

    def __init__(
        self,
        sources: Sequence[DataSourceConfig],
        data_mapping: Mapping[str, str] | None = None,
        cache_size_gb: float = 100.0,
        max_ttl_seconds: float | None = 3600.0,
        prefetch_ahead: int = 10,
        enable_prefetch: bool = True,
        compression_type: Literal["zstd", "none"] = "zstd",
        *,
        policy: Literal["keep", "lru", "auto"] = "keep",
        pairs: Mapping[str, str] | None = None,
        on_missing: Literal["error", "skip"] = "skip",
        on_error: Verdict | ErrorFunction = "raise",
        on_changed: Literal["error", "reload"] = "error",
        restore_latents: bool = True,
        disk: str | os.PathLike[str] | None = None,
        disk_capacity: Size | None = None,
        fetch: FetchConfig | None = None,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        framework: FrameworkName | None = None,
    ) -> None:
        prefetch_ahead = whole("prefetch_ahead", prefetch_ahead)
        fields = fields_of(sources)
        mapping = DEFAULT_MAPPING if data_mapping is None else data_mapping
        if unknown := [name for name in data_mapping or () if name not in fields]:
            raise ConfigError(f"cannot map `{unknown[0]}`: the sources are {', '.join(fields)}")
        self._prefetch_ahead, self._is_prefetching = prefetch_ahead, enable_prefetch
        super().__init__(
            fields,
            mapping,
            cache=CacheConfig(
                memory=memory_of("cache_size_gb", cache_size_gb),
                ttl=ttl_of("max_ttl_seconds", max_ttl_seconds),
                compression=compression_type,
                policy=policy,
                disk=disk,
                disk_capacity=disk_capacity,
            ),
            prefetch=PrefetchConfig(ahead=prefetch_ahead if enable_prefetch else 0),
            pairs=pairs,
            on_missing=on_missing,
            on_error=on_error,
            on_changed=on_changed,
            restore_latents=restore_latents,
            fetch=fetch,
            transform=transform,
            framework=framework,
        )

    def prefetch_batch(self, indices: Iterable[SupportsIndex]) -> int:
        """Has samples fetched for whoever reads them next, in this order, and returns at once.

        Returns:
            How many are queued; none while the worker is stopped.

        Raises:
            IndexOutOfRangeError: there is no such sample; nothing is queued then.

        """
        return self.prefetch(indices) if self._is_prefetching else 0

    def start_prefetch_worker(self) -> Done:
        """Has samples fetched ahead from now on."""
        self._is_prefetching = True
        self._native.read_ahead(self._prefetch_ahead)
        return Done()

    def stop_prefetch_worker(self) -> Done:
        """Fetches nothing ahead any more: empties the queue, cancels what is under way and lets go of what nobody has read."""
        self._is_prefetching = False
        self._native.read_ahead(0)
        self.stop_prefetch()
        return Done()

    def get_cache_stats(self) -> dict[str, int | float]:
        """What the cache of this process holds, and what it was worth since the metrics were reset, counted in objects.

        Returns:
            ``num_items``; ``current_size_gb``, ``max_size_gb`` and ``compression_savings_gb`` in 10**9 bytes; ``hit_rate`` from
            0 to 1; ``total_hits`` (of which ``prefetch_hits`` had been fetched ahead), ``total_misses``, ``total_evictions``.

        """
        items, held, capacity, hits, prefetch_hits, misses, evictions, saved = self._native.cache_summary()
        return {
            "num_items": items,
            "current_size_gb": held / GB,
            "max_size_gb": capacity / GB,
            "hit_rate": hits / (hits + misses) if hits + misses else 0.0,
            "total_hits": hits,
            "total_misses": misses,
            "total_evictions": evictions,
            "prefetch_hits": prefetch_hits,
            "compression_savings_gb": saved / GB,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return (*super().__reduce__(), (self._prefetch_ahead, self._is_prefetching))

    def __setstate__(self, state: tuple[int, bool]) -> None:
        self._prefetch_ahead, self._is_prefetching = state
        self._native.read_ahead(self._prefetch_ahead if self._is_prefetching else 0)


def fields_of(sources: Sequence[DataSourceConfig]) -> dict[str, list[Source]]:
    """The sources of each field, in order of preference.

    Raises:
        ConfigError: a source is to stand in for one that is not there.

    """
    if isinstance(sources, DataSourceConfig | Mapping | str) or not isinstance(sources, Iterable):
        raise ConfigError("cannot use `sources`: give a list of DataSourceConfig")
    sources = list(sources)
    if wrong := [source for source in sources if not isinstance(source, DataSourceConfig)]:
        raise ConfigError(f"cannot use a `{type(wrong[0]).__name__}` as source: give a DataSourceConfig")
    fields: dict[str, list[Source]] = {config.name: [] for config in sources if config.replicas_of is None}
    stands_for = {config.name: config.replicas_of for config in sources if config.name not in fields}
    for config in sorted(sources, key=lambda config: config.replicas_of is not None):
        field, seen = config.replicas_of or config.name, {config.name}
        # Of a replica, which may be one of another replica.
        while field not in fields and field in stands_for and field not in seen:
            seen.add(field)
            field = stands_for[field] or field
        if field not in fields:
            raise ConfigError(
                f"cannot use `{config.name}`: it is to be a replica of `{config.replicas_of}`, which is no source"
            )
        fields[field].append(config.source())
    return fields


def create_streaming_dataset_from_config(config: Mapping[str, Any]) -> StreamingDatasetAdapter:
    """The dataset that a dict describes, as read from a trainer's YAML.

    Args:
        config: ``sources``, a list of dicts with ``name``, ``type``, ``path`` and, where they are needed, ``credentials`` and
            ``replicas_of``; beside it any argument of :class:`StreamingDatasetAdapter`.

    Raises:
        ConfigError: something in it is missing or unknown; and all that :class:`StreamingDatasetAdapter` raises.

    """
    if not isinstance(config, Mapping) or "sources" not in config:
        raise ConfigError("cannot use the configuration: it has no `sources`")
    arguments = {name: value for name, value in config.items() if name != "sources"}
    known = inspect.signature(StreamingDatasetAdapter).parameters.keys()
    if unknown := sorted(arguments.keys() - known):
        raise ConfigError(f"cannot use `{unknown[0]}`: the configuration knows {', '.join(known)}")
    sources = config["sources"]
    if not isinstance(sources, list | tuple):
        raise ConfigError("cannot use `sources` of the configuration: give a list of dicts with name, type and path")
    return StreamingDatasetAdapter([_source(source) for source in sources], **arguments)


# What a source is described by, and other names of it.
_SOURCE_KEYS = {"type": "source_type", "path": "path_or_uri", "uri": "path_or_uri"}


def _source(given: Mapping[str, Any] | DataSourceConfig) -> DataSourceConfig:
    if isinstance(given, DataSourceConfig):
        return given
    if not isinstance(given, Mapping):
        raise ConfigError(f"cannot use a `{type(given).__name__}` as source: give a dict with name, type and path")
    named = {_SOURCE_KEYS.get(name, name): value for name, value in given.items()}
    known = DataSourceConfig.__dataclass_fields__
    if unknown := sorted(named.keys() - known.keys()):
        raise ConfigError(f"cannot use `{unknown[0]}` of a source: it knows name, type, path, credentials, replicas_of")
    if missing := [name for name in ("name", "source_type", "path_or_uri") if name not in named]:
        words = {"source_type": "type", "path_or_uri": "path"}
        raise ConfigError(f"cannot use a source without `{words.get(missing[0], missing[0])}`")
    return DataSourceConfig(**named)
