"""The map-style dataset."""

from __future__ import annotations

import multiprocessing.context
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsIndex, TypeAlias

from headwater import _headwater, workers
from headwater.config import CacheConfig, FetchConfig, PrefetchConfig, as_json, given
from headwater.credentials import named_credentials
from headwater.distributed import Facts, compare_with_first_rank, find_ranks, told
from headwater.errors import ConfigError, IndexOutOfRangeError
from headwater.frameworks import FrameworkName, framework_of
from headwater.functions import Named, renamed
from headwater.on_error import ErrorFunction, Verdict, setting
from headwater.source import Option, Source

if TYPE_CHECKING:
    # What `DataLoader` is declared to take; nothing of torch is needed to be one.
    from torch.utils.data import Dataset

    _MapStyle = Dataset[Any]
else:
    _MapStyle = object

Place: TypeAlias = "str | os.PathLike[str] | Source"
Places: TypeAlias = "Place | Sequence[Place]"
Sample: TypeAlias = dict[str, Any]


class StreamingDataset(_MapStyle):
    """Samples by index, read from where they are stored.

    Works wherever torch takes a map-style dataset: ``DataLoader`` with any number of workers under fork, forkserver and
    spawn, samplers, ``Subset``.

    Args:
        fields: field name → path, URI or :class:`Source`, or a list of those that hold the same objects, in order of
            preference; or one of those alone, whose sub-folders are the fields.
        storage_options: options by field name or URI scheme, used where a source does not give them itself.
        cache: what is kept of what was read.
        fetch: how sources are asked.
        prefetch: what :meth:`prefetch` may take; a loader's own window is its own affair.
        pairs: field name → pattern of its file names with one ``*`` for the key, such as ``"latent_*"``.
        guess_pairs: whether patterns of fields that ``pairs`` does not name are found out from the names that there are.
        restore_latents: whether latents that were kept patchified, a dict with ``latents`` of shape ``[seq, C]`` and
            ``num_frames``, ``height`` and ``width``, are handed out as ``[C, F, H, W]``; without a copy.
        rename: field name → what it is called in samples, such as ``{"latents": "latent_conditions"}``.
        transform: called with each sample; what it returns is the sample.
        on_missing: ``"error"``, or ``"skip"`` to leave out samples that lack an object.
        on_error: what becomes of a sample of a batch that cannot be read or decoded: ``"raise"``; ``"skip"`` leaves it out of
            its batch; ``"substitute"`` takes another in its place, always the same; or a function of its key and its error that
            returns one of the three, called on a thread of its own. A hundred in a row are raised.
        on_changed: ``"error"``, or ``"reload"`` to read objects that were replaced since they were listed.
        manifest_max_age: how long a listing of a remote source is reused: ``"90s"``, ``"1h"``, or seconds.
        manifest: a published manifest to open the dataset by, instead of listing: the path or URI of a file, which the first
            rank makes where it is not there while the others wait, or ``"published"`` for the one beside the data (``headwater
            index --publish``).
        manifest_timeout: how long to wait for a manifest that another process makes; ten minutes by default.
        framework: ``"torch"`` or ``"numpy"``; by default torch where it is installed.

    Raises:
        ConfigError: an argument or URI cannot be meant.
        NotFoundError: a place does not exist or holds no sample, or samples lack objects.
        AccessDeniedError, UnavailableError, DeadlineError: a place cannot be reached.

    """

    # What samples call their index.
    _index_name = "__index__"

    # What the core calls through this dataset.
    _functions: tuple[Named, ...]

    def __init__(
        self,
        fields: Mapping[str, Places] | Places,
        *,
        storage_options: Mapping[str, Mapping[str, Option]] | None = None,
        cache: CacheConfig | None = None,
        fetch: FetchConfig | None = None,
        prefetch: PrefetchConfig | None = None,
        pairs: Mapping[str, str] | None = None,
        guess_pairs: bool = False,
        restore_latents: bool = False,
        rename: Mapping[str, str] | None = None,
        transform: Callable[[Sample], Any] | None = None,
        on_missing: Literal["error", "skip"] = "error",
        on_changed: Literal["error", "reload"] = "error",
        on_error: Verdict | ErrorFunction = "raise",
        manifest_max_age: str | float = "1h",
        manifest: str | os.PathLike[str] | None = None,
        manifest_timeout: str | float | None = None,
        framework: FrameworkName | None = None,
    ) -> None:
        config: dict[str, Any] = {"on_missing": on_missing, "on_changed": on_changed, "manifest_max_age": manifest_max_age}
        if isinstance(fields, Mapping):
            config["fields"] = {name: _places(places) for name, places in fields.items()}
        else:
            config["source"] = _places(fields)
        config["pairs"], config["rename"] = dict(pairs or {}), dict(rename or {})
        config["guess_pairs"], config["restore_latents"] = guess_pairs, restore_latents
        config["cache"], config["fetch"], config["prefetch"] = given(cache), given(fetch), given(prefetch)
        config["storage_options"] = {name: _options(options) for name, options in (storage_options or {}).items()}
        if manifest is not None:
            config["manifest"] = os.fspath(manifest)
        if manifest_timeout is not None:
            config["manifest_timeout"] = manifest_timeout
        config["on_error"], on_error_name = setting(on_error)
        self._functions = tuple(_credentials_in(config)) + ((on_error_name,) if on_error_name else ())
        self._framework, made = framework_of(framework)
        self._transform = transform
        self._native = _headwater.Dataset.open(as_json(config), _rank(manifest is not None), made)

    @classmethod
    def _around(cls, native: _headwater.Dataset, framework: FrameworkName, transform: Callable[[Sample], Any] | None) -> Self:
        dataset = cls.__new__(cls)
        dataset._native, dataset._framework, dataset._transform = native, framework, transform
        dataset._functions = ()
        return dataset

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        transform: Callable[[Sample], Any] | None = None,
        framework: FrameworkName | None = None,
    ) -> Self:
        """Opens the dataset that a ``headwater.toml`` describes; relative paths in it are relative to its folder.

        Raises:
            NotFoundError: there is no such file, or what it names is not there.
            ConfigError: it holds something unknown or wrong; the message names it.

        """
        name, made = framework_of(framework)
        return cls._around(_headwater.Dataset.open_file(os.fspath(path), told(), made), name, transform)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._native)

    def __getitem__(self, index: SupportsIndex | Sequence[SupportsIndex]) -> Any:
        """Reads one sample, or a list of samples for a sequence of indices; negative ones count from the end.

        A sample is a dict: one entry per field holding the decoded object, ``"__key__"`` and ``"__index__"``.

        Raises:
            IndexOutOfRangeError: there is no such sample.
            TypeError: for slices and anything else that is no index.
            CorruptDataError, UnsupportedError, ObjectChangedError, NotFoundError, UnavailableError, DeadlineError: reading
                or decoding failed; the message names the object.

        """
        workers.tell()
        if type(index) is int and -1 << 63 <= index < 1 << 63:  # nearly always
            return self._finish(self._native.get(index))
        if hasattr(index, "__index__") and not getattr(index, "ndim", None):
            return self._finish(self._native.get(self._index(index)))
        return [self._finish(sample) for sample in self._native.get_many(self._indices(_sequence(index)))]

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[Any]:
        """Reads the samples of a batch concurrently, in the order given, as ``on_error`` says. ``DataLoader`` calls this."""
        workers.tell()
        return [self._finish(sample) for sample in self._native.get_batch(self._indices(indices))]

    def __iter__(self) -> Iterator[Any]:
        """Reads one sample after the other, in the order of their keys."""
        return (self[index] for index in range(len(self)))

    def key(self, index: SupportsIndex) -> str:
        """Name that the objects of a sample share."""
        return self._native.key(self._index(index))

    def index_of(self, key: str) -> int:
        """Index of the sample with that key.

        Raises:
            NotFoundError: there is none.

        """
        return self._native.index_of(key)

    def prefetch(self, samples: Iterable[str | SupportsIndex]) -> int:
        """Has samples fetched for whoever reads them next, in this order, and returns at once.

        What is cached is not fetched, what is queued already not again; one that fails stops no other, and is raised when it is
        read. Nothing is fetched beyond what ``PrefetchConfig`` allows until something is read; what nobody reads within a
        minute gives way.

        Args:
            samples: keys or indices.

        Returns:
            How many the queue took; the others it had no room for, and dropped.

        Raises:
            NotFoundError, IndexOutOfRangeError: there is no such sample; nothing is queued then.

        """
        if isinstance(samples, str | bytes | bytearray):
            raise ConfigError(f"cannot prefetch a {type(samples).__name__}: give a list of keys or indices")
        indices = [self._native.index_of(sample) if isinstance(sample, str) else self._index(sample) for sample in samples]
        return self._native.prefetch(indices)

    def stop_prefetch(self) -> None:
        """Empties the queue of :meth:`prefetch`, cancels what is under way and lets go of what nobody has read."""
        self._native.stop_prefetch()

    @property
    def fields(self) -> list[str]:
        """Names of the fields, in order."""
        return self._native.fields

    @property
    def order_fingerprint(self) -> str:
        """Identifies field names and keys: two datasets that agree in it give every index the same sample."""
        return self._native.order_fingerprint

    @property
    def content_fingerprint(self) -> str:
        """Identifies sizes and versions of the objects."""
        return self._native.content_fingerprint

    def stats(self) -> dict[str, int | float]:
        """What was counted so far in this process: metric name → number, durations in seconds."""
        return self._native.stats()

    def source_stats(self) -> dict[str, dict[str, Any]]:
        """What was counted so far in this process of each source by itself.

        Returns:
            Name of the source → metric name → number, durations in seconds; and under ``"errors"`` how many there were of each
            kind. A name is the URI without credentials, with the server where an endpoint was given:
            ``"s3://bucket/run at https://host"``. Of a field with replicas, requests and bytes are under the preferred one, and
            each has its own answers and errors. Metrics and kinds are those of ``docs/metrics.md``.

        """
        return self._native.source_stats()

    def openmetrics(self) -> str:
        """What was counted so far in this process, as text that Prometheus reads (OpenMetrics 1.0).

        Of the dataset and its loaders, of each source by itself, and of times their histograms, by the names and labels of
        ``docs/metrics.md``: for an endpoint of your own, or a file for the ``textfile`` collector of node_exporter.
        """
        return self._native.openmetrics()

    def reset_metrics(self) -> None:
        """Begins to count anew; what is cached stays."""
        self._native.reset_metrics()

    def clear_cache(self) -> None:
        """Empties the cache of this process."""
        self._native.clear_cache()

    def _compare_with_first_rank(self, first: int = 0) -> None:
        facts = Facts(
            origin=self._native.origin,
            samples=len(self),
            order_fingerprint=self.order_fingerprint,
            size_fingerprint=self._native.size_fingerprint,
            content_fingerprint=self.content_fingerprint if self._native.has_entity_tags else None,
        )
        compare_with_first_rank("/".join(self.fields), facts, first)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} samples, fields {', '.join(self.fields)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Explicit credentials are handed to a worker that multiprocessing is starting, and written nowhere else.
        spawning = multiprocessing.context.get_spawning_popen() is not None
        functions = {str(name): name.function for name in self._functions}
        return _reopen, (type(self), self._native.pinned(spawning), self._framework, self._transform, functions)

    def _indices(self, indices: Sequence[SupportsIndex]) -> list[int]:
        return [self._index(index) for index in indices]

    def _index(self, index: Any) -> int:
        if isinstance(index, bool):
            raise TypeError("cannot index a StreamingDataset with a bool")
        number = operator.index(index)
        if not -(2**63) <= number < 2**63:
            raise IndexOutOfRangeError(f"cannot take sample `{number}`: the dataset has {len(self)} samples")
        return number

    def _finish(self, sample: Sample) -> Any:
        return sample if self._transform is None else self._transform(sample)


def _rank(matters: bool) -> int:
    """Which rank this process is, where that says who makes a manifest. Elsewhere a loader may still be told its place."""
    try:
        return find_ranks().rank
    except ConfigError:
        if matters:
            raise
        return 0


def _reopen(
    kind: type[StreamingDataset],
    pinned: str,
    framework: FrameworkName,
    transform: Callable[[Sample], Any] | None,
    functions: dict[str, Callable[..., Any]],
) -> StreamingDataset:
    names = renamed(functions)
    native = _headwater.Dataset.reopen(pinned, framework_of(framework)[1])
    dataset = kind._around(native, framework, transform)
    dataset._functions = names
    return dataset


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with a function that gives credentials named as the core asks for it."""
    return {
        name: named_credentials(value) if name == "credentials" and callable(value) else value
        for name, value in options.items()
    }


def _credentials_in(config: Any) -> set[Named]:
    """Names of the functions that a configuration refers to."""
    if isinstance(config, Named):
        return {config}
    inner = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    return {name for value in inner for name in _credentials_in(value)}


def _places(places: Places) -> Any:
    if isinstance(places, list | tuple):
        return [_place(place) for place in places]
    return _place(places)


def _place(place: Any) -> str | dict[str, Option]:
    if isinstance(place, Source):
        return place._config()
    if isinstance(place, str | os.PathLike):
        return os.fspath(place)
    raise ConfigError(f"cannot use a `{type(place).__name__}` as source: give a path, a URI or a headwater.Source")


def _sequence(indices: Any) -> Sequence[SupportsIndex]:
    if hasattr(indices, "tolist"):
        indices = indices.tolist()
    if isinstance(indices, slice):
        raise TypeError("cannot slice a StreamingDataset; index it with a list, or use torch.utils.data.Subset")
    if not isinstance(indices, Sequence) or isinstance(indices, str | bytes):
        raise TypeError(f"cannot index a StreamingDataset with a `{type(indices).__name__}`")
    return indices
