"""A dataset's ``transform`` and a loader's ``collate_fn``, called ahead of the training loop by threads of Python's.

The core says what is to be done next, and hands out in order what becomes of it; nothing here decides about either.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from headwater._headwater import Batches, Task, Tasks

# Makes a batch of samples of a pass.
Finish: TypeAlias = Callable[[list[Any], Batches], Any]

# How long the end of the process waits for functions that are at work. One that does not return is left to its fate.
_PATIENCE_SECONDS = 0.5


class _Seed(threading.local):
    """The seed of what this thread is at."""

    of: Callable[[], int] | None = None


_seed = _Seed()


def sample_seed() -> int:
    """The seed for what a ``transform`` draws at random about its sample, below 2**63.

    In a :class:`StreamingDataLoader` it is a function of the loader's ``seed``, the epoch and the sample: the same on every
    run, thread and rank, and after a resume. In its ``collate_fn`` it is that of the batch's first sample. Everywhere else,
    such as in a worker of torch's ``DataLoader``, it is drawn from Python's ``random``, which torch seeds in its workers.

    ::

        def transform(sample):
            generator = numpy.random.default_rng(headwater.sample_seed())
    """
    return _seed.of() if _seed.of is not None else random.getrandbits(63)


@dataclass(frozen=True)
class Functions:
    """What makes a batch of a list of samples.

    Args:
        transform: called with each sample first.
        collate: called with the list of those, or of the samples themselves.

    """

    transform: Callable[[Any], Any] | None
    collate: Callable[[list[Any]], Any]

    def finish(self, samples: list[Any], batches: Batches) -> Any:
        """Makes a batch on the calling thread."""
        # Before anything is called: a transform may change what it is given.
        keys = [sample["__key__"] for sample in samples]
        seeds = [functools.partial(batches.sample_seed, sample["__index__"]) for sample in samples]
        made = samples
        if self.transform is not None:
            given = zip(samples, seeds, keys, strict=True)
            made = [_called(self.transform, sample, seed, functools.partial(_of_sample, key)) for sample, seed, key in given]
        return _called(self.collate, made, seeds[0], lambda: _of_batch(keys))

    def do(self, task: Task) -> None:
        """Does what the core asks for."""
        try:
            if task.is_of_sample and self.transform is not None:
                made = _called(self.transform, task.given, lambda: task.seed, lambda: _of_sample(*task.keys))
            else:
                made = _called(self.collate, task.given, lambda: task.seed, lambda: _of_batch(task.keys))
        except BaseException as error:
            task.fail(error)
        else:
            task.complete(made)


def _called(function: Callable[[Any], Any], argument: Any, seed: Callable[[], int], about: Callable[[], str]) -> Any:
    # A function may walk another loader, whose functions have seeds of their own.
    before, _seed.of = _seed.of, seed
    try:
        return function(argument)
    except StopIteration as error:
        # It would end the loop as if nothing were to come.
        raised = RuntimeError(f"{getattr(function, '__qualname__', function)!s} raised StopIteration")
        _note(raised, about())
        raise raised from error
    except Exception as error:
        _note(error, about())
        raise
    finally:
        _seed.of = before


class _Note(str):
    """What this module says about an exception."""

    __slots__ = ()


def _note(error: BaseException, words: str) -> None:
    # An exception may refuse notes, and one object be raised many times; about what is that of the last time.
    with contextlib.suppress(Exception):
        if hasattr(error, "__notes__"):
            error.__notes__[:] = [note for note in error.__notes__ if not isinstance(note, _Note)]
        error.add_note(_Note(words))


def _of_sample(key: str) -> str:
    return f"in the dataset's transform, of sample `{key}`"


def _of_batch(keys: list[str]) -> str:
    others = f" and {len(keys) - 1} others" if len(keys) > 1 else ""
    return f"in collate_fn, of sample `{keys[0]}`{others}"


# Those at work, and what they get their tasks from.
_threads: dict[threading.Thread, Tasks] = {}


def start(functions: Functions, tasks: Tasks, count: int) -> None:
    """Starts threads that do what the core asks for, until it wants no more.

    Raises:
        RuntimeError: the system grants not one.

    """
    for number in range(count):
        thread = threading.Thread(target=_work, args=(functions, tasks), name=f"headwater-transform-{number}", daemon=True)
        # Before it begins, so that it is known of whenever the process ends.
        _threads[thread] = tasks
        try:
            thread.start()
        except RuntimeError:
            del _threads[thread]
            if number == 0:
                raise
            return


def _work(functions: Functions, tasks: Tasks) -> None:
    try:
        while _do_next(functions, tasks):
            pass
    finally:
        _threads.pop(threading.current_thread(), None)


def _do_next(functions: Functions, tasks: Tasks) -> bool:
    # On its own, so that nothing of a task is held while the next one is waited for.
    task = tasks.next()
    if task is not None:
        functions.do(task)
    return task is not None


def _stop() -> None:
    threads = dict(_threads)
    for tasks in threads.values():
        tasks.close()
    ends = time.monotonic() + _PATIENCE_SECONDS
    for thread in threads:
        # It may be about to begin, on another thread; it finds nothing to do.
        with contextlib.suppress(RuntimeError):
            thread.join(max(ends - time.monotonic(), 0.0))


atexit.register(_stop)
# A forked child has none of them.
os.register_at_fork(after_in_child=_threads.clear)
