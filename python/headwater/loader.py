"""The loader: batches in order, ahead of their consumer."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from headwater import _headwater
from headwater.config import Size, Span, as_json
from headwater.dataset import StreamingDataset
from headwater.distributed import Group, join, say_whose_ranks, told
from headwater.errors import ConfigError
from headwater.frameworks import FrameworkName, default_collate, framework_of
from headwater.passes import Pass
from headwater.transforms import Finish, Functions, start

if TYPE_CHECKING:
    import torch

    from headwater.device import Placement

Collate = Literal["stack", "list", "pad"]


class StreamingDataLoader:
    """Batches of a dataset, assembled outside the interpreter, in a fixed order, ahead of the training loop.

    What it hands out depends on its arguments and its state alone: not on threads, cache or speed. Each ``iter()`` begins the
    next epoch; :meth:`set_epoch` and :meth:`load_state_dict` choose another place to begin.

    A batch is a dict with the entries of a sample. Tensors are stacked along a new first dimension, numbers become tensors
    (``int64``, ``float64``, ``bool``), dicts and lists are entered, strings are listed; ``"__key__"`` is a sequence of str,
    ``"__index__"`` an ``int64`` tensor and, unless ``drop_last``, ``"__pad__"`` a ``bool`` tensor that marks repeated samples.
    Tensors are the user's own.

    Args:
        dataset: what to walk. With a ``transform`` samples are put together in the interpreter.
        batch_size: samples per batch and rank.
        shuffle: a new random order every epoch.
        seed: what that order is drawn from; the same on all ranks.
        drop_last: leave out the samples at the end that make no full batch on every rank. Otherwise the last batch is
            shorter, and padded where ranks would differ.
        rank, world_size: which process of the run this is. By default as ``torch.distributed``, Ray Train, torchrun, ``mpirun``
            or Slurm's ``srun`` says; else a single process.
        replication: so many consecutive ranks get the same batches: those that hold parts of one model.
        process_group: the ranks that get different batches: a ``ProcessGroup`` or ``DeviceMesh`` of torch, such as
            ``mesh["dp"]``. Instead of ``rank`` and ``world_size``.
        num_threads: threads that decode and assemble; by default those that all loaders of the process share: as many as its
            share of the machine's cores.
        transform_threads: threads of Python's that call the dataset's ``transform`` and ``collate_fn`` ahead of the loop, in
            the order of the samples; by default as many as this process's share of the cores, at most 4. With 1, one call comes
            after the other; with 0, functions are called on the consuming thread when their batch is asked for.
        window_samples: samples under way and ready ahead; by default follows the consumer.
        window_bytes: memory of those, in bytes or like ``"1GB"``.
        memory_budget: memory of cache, window and idle buffers together; what the user holds is not in it. More than this
            process's share of the machine, or container, is not granted, with a warning.
        collate: ``"stack"``; ``"list"`` leaves tensors of a batch apart; ``"pad"`` fills them up with zeros to the
            largest, with a mask ``"<name>__mask"`` beside each that broadcasts against it.
        collate_fn: called with the list of samples instead, ahead of the loop (``transform_threads``): what it returns is its
            batch's alone. Unless ``drop_last``, each sample says in ``"__pad__"`` whether it is one.
        pin_memory: hand out tensors in page-locked memory, where there is an accelerator.
        device: hand out tensors on that device, such as ``"cuda"`` or a ``torch.device``: copied there ahead of the loop,
            beside its computation. What ``collate_fn`` or a ``transform`` returns is moved as torch's ``DataLoader`` pins it.
        batch_deadline: how long to wait for one batch, in seconds or like ``"5m"``; by default as long as reads take at most.
            Then a :class:`DeadlineError` names what was waited for.
        watchdog: after how long a wait for one batch the log is told what it waits for, and again after twice as long; 0 or
            None never.

    Raises:
        ConfigError: an argument cannot be meant, or the memory budget is too small; the message says what is needed.

    """

    def __init__(
        self,
        dataset: StreamingDataset,
        batch_size: int = 1,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        replication: int = 1,
        process_group: Group | None = None,
        num_threads: int | None = None,
        transform_threads: int | None = None,
        window_samples: int | None = None,
        window_bytes: Size | None = None,
        memory_budget: Size | None = None,
        collate: Collate = "stack",
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        device: str | torch.device | int | None = None,
        batch_deadline: Span | None = None,
        watchdog: Span | None = "30s",
    ) -> None:
        if not isinstance(dataset, StreamingDataset):
            raise ConfigError(f"cannot load from a `{type(dataset).__name__}`: give a headwater.StreamingDataset")
        if collate_fn is not None and not callable(collate_fn):
            raise ConfigError(f"cannot use collate_fn={collate_fn!r}: give a callable, or collate=")
        apart = collate_fn is not None or dataset._transform is not None
        if collate not in get_args(Collate):
            raise ConfigError(f"cannot use collate={collate!r}: give one of {get_args(Collate)}, or collate_fn=")
        if apart and collate != "stack":
            raise ConfigError(f"collate={collate!r} goes with neither collate_fn nor a dataset's transform")
        ranks, place = join(dataset._compare_with_first_rank, rank, world_size, replication, process_group)
        config = {
            "batch_size": batch_size,
            "shuffle": shuffle,
            "seed": seed,
            "drop_last": drop_last,
            "num_threads": num_threads,
            "transform_threads": transform_threads,
            "window_samples": window_samples,
            "window_bytes": window_bytes,
            "memory_budget": memory_budget,
            "collate": "samples" if apart else collate,
            "pin_memory": pin_memory,
            "device": None if device is None else str(device),
            "batch_deadline": batch_deadline,
            "watchdog": 0 if watchdog is None else watchdog,
        }
        self._begin_life(dataset, _headwater.Loader(dataset._native, as_json(config | place)), collate_fn, ranks)

    def _begin_life(
        self,
        dataset: StreamingDataset,
        native: _headwater.Loader,
        collate_fn: Callable[[list[Any]], Any] | None,
        ranks: _headwater.Ranks,
    ) -> None:
        self.dataset, self._native, self._sampler, self._ranks = dataset, native, native.sampler, ranks
        # A pass that has handed out nothing follows what is chosen after it.
        self._last_pass: Callable[[], Pass | None] = lambda: None
        self._placement = _placement(dataset, json.loads(native.config))
        self._functions = _functions(dataset, collate_fn)
        self._passes: weakref.WeakSet[Pass] = weakref.WeakSet()

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, framework: FrameworkName | None = None) -> StreamingDataLoader:
        """Opens the dataset that a ``headwater.toml`` describes, and a loader as its ``[loader]`` table says.

        Rank and world size are found out as for a loader that is given none, unless the table names them.
        """
        name, made = framework_of(framework)
        loader = cls.__new__(cls)
        native, ranks = _headwater.Loader.open_file(os.fspath(path), told(), made)
        dataset = StreamingDataset._around(native.dataset, name, None)
        if ranks.world_size > 1 and ranks.found != "given":
            dataset._compare_with_first_rank()
        say_whose_ranks(ranks)
        loader._begin_life(dataset, native, None, ranks)
        return loader

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch; the same on every rank."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[Any]:
        """Begins a pass: where a restored state or :meth:`set_epoch` says, else the next epoch from its start.

        A pass that has handed out nothing is begun again: trainers try an iterator before they use one. It also follows
        :meth:`set_epoch` and :meth:`load_state_dict`.

        Raises:
            ConfigError: this process has become another rank than the loader was made for.

        Raises while iterating:
            CorruptDataError, UnsupportedError, NotFoundError, ObjectChangedError, UnavailableError, DeadlineError: reading or
                decoding failed; the message names the object. The pass is over then.
            ConfigError: samples do not fit together; the message names field and samples, and says what to do.
            Whatever ``transform`` and ``collate_fn`` raise, in the place of the batch it is about, with a note of the sample.
                It counts as handed out, and the pass goes on with the next.

        """
        self._ranks.check(told())
        if self._placement is None:
            made = Pass(self._batches(), self.dataset, self._finish())
        else:
            # Both import torch.
            from headwater.ahead import Ahead

            placing, is_ours = self._placement.of_pass(), self._functions is None
            made = Ahead(self._batches(), self.dataset, self._finish(), placing, is_ours=is_ours)
        self._last_pass = weakref.ref(made)
        self._passes.add(made)
        return made

    def _batches(self) -> _headwater.Batches:
        """Begins a pass of the core's, and has threads at work where functions are called ahead."""
        if self._functions is None or not self._native.transform_threads:
            return self._native.batches()
        batches, tasks = self._native.transformed(self._functions.transform is not None)
        try:
            start(self._functions, tasks, self._native.transform_threads)
        except BaseException:
            batches.close()
            raise
        return batches

    def _finish(self) -> Finish | None:
        """What is to be done with samples on the consuming thread."""
        return None if self._functions is None or self._native.transform_threads else self._functions.finish

    def _begin_anew(self, is_to_begin_anew: bool) -> None:
        made = self._last_pass() if is_to_begin_anew else None
        if made is not None and not made.is_over:
            made.begin_anew(self._batches())

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next pass; a state restored for that very epoch keeps its place in it."""
        self._begin_anew(self._sampler.set_epoch(epoch))

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, as plain data: the batches handed out so far are behind it. The same on every rank."""
        return self._sampler.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes the next pass begin where the state was taken, also under another batch size, world size or thread count.

        Raises:
            ConfigError: the state is of other samples or another order; the message says what differs.
            ObjectChangedError: objects were replaced since, and the dataset has ``on_changed="error"``.

        """
        self._begin_anew(self._sampler.restore(state_dict))

    @property
    def batch_sampler(self) -> _BatchSampler:
        """Where Lightning looks for whom to tell the epoch. There is no ``sampler`` that anything could put another around."""
        return _BatchSampler(json.loads(self._native.config)["batch_size"], self)

    def stats(self) -> dict[str, Any]:
        """What was counted so far in this process.

        Returns:
            Metric name → number, by the names of ``docs/metrics.md``; durations, also their quantiles, in seconds. And under
            ``"verdict"``, in one line, why training waited in the last minute: :meth:`verdict`.

        """
        return self._native.stats()

    def verdict(self) -> dict[str, Any]:
        """Why training waited in the last minute, or so far where that is less.

        Returns:
            ``"bottleneck"``: ``"balanced"``, ``"unknown"`` before there were two batches, or what most of the waiting was for:
            ``"source"``, ``"concurrency"``, ``"failing_source"``, ``"window"``, ``"cache"``, ``"decode"``, ``"collate"``,
            ``"transform"``, ``"placing"``; ``"running"``: the share of the time that training ran, from 0 to 1, or None;
            ``"line"``: all of it in words, with the change that would help most.

        """
        verdict: dict[str, Any] = json.loads(self._native.verdict())
        return verdict

    def source_stats(self) -> dict[str, dict[str, Any]]:
        """Those of each source: :meth:`StreamingDataset.source_stats` of the dataset."""
        return self.dataset.source_stats()

    def openmetrics(self) -> str:
        """All of it as text that Prometheus reads: :meth:`StreamingDataset.openmetrics` of the dataset."""
        return self.dataset.openmetrics()

    def waits(self) -> list[dict[str, Any]]:
        """What the youngest pass waits for at this moment, the next batch first; may be called from any thread.

        Returns:
            One dict for each thing: ``"ahead"``, how many batches come before the one it is for; ``"stage"``, one of
            ``"source"``, ``"decode"``, ``"on_error"``, ``"collate"``, ``"transform"`` and ``"collate_fn"``; ``"object"``, the
            URI of what is read or decoded, or the key of the sample that ``transform`` has (None: no thread has begun with it);
            ``"seconds"``, since when.

        """
        waits: list[dict[str, Any]] = json.loads(self._native.waits())
        return waits

    def close(self) -> None:
        """Ends every pass and cancels what is under way. The loader can be iterated again."""
        self._last_pass = lambda: None
        for made in list(self._passes):
            made.close()

    def __enter__(self) -> StreamingDataLoader:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        config = json.loads(self._native.config)
        return f"<StreamingDataLoader of {len(self)} batches of {config['batch_size']}, {self.dataset!r}>"


class _BatchSampler(NamedTuple):
    batch_size: int
    sampler: StreamingDataLoader


def _functions(dataset: StreamingDataset, collate_fn: Callable[[list[Any]], Any] | None) -> Functions | None:
    """What makes a batch of a list of samples; ``None`` where the core does."""
    transform = dataset._transform
    if transform is None and collate_fn is None:
        return None
    return Functions(transform, collate_fn or default_collate(dataset._framework))


def _placement(dataset: StreamingDataset, config: dict[str, Any]) -> Placement | None:
    """Where batches go; ``None`` where they stay."""
    pin_memory, device = config["pin_memory"], config.get("device")
    if not pin_memory and device is None:
        return None
    if dataset._framework != "torch":
        raise ConfigError(f"pin_memory and device are torch's: they do not go with framework={dataset._framework!r}")
    from headwater.device import Placement

    placement = Placement(pin_memory, device)
    return None if placement.does_nothing else placement


def open(path: str | os.PathLike[str], *, framework: FrameworkName | None = None) -> StreamingDataLoader:  # noqa: A001 - the name that users of `hw.open` expect
    """Opens the loader that a ``headwater.toml`` describes; relative paths in it are relative to its folder.

    Raises:
        NotFoundError: there is no such file, or what it names is not there.
        ConfigError: it holds something unknown or wrong; the message names it.

    """
    return StreamingDataLoader.open(path, framework=framework)
