"""Checks for the tests of training code."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from headwater._headwater import ManualClock

__all__ = ["ManualClock", "Resumable", "assert_resumable"]


class Resumable(Protocol):
    """A loader with a state: :class:`StreamingDataLoader`, torchdata's ``StatefulDataLoader``, or yours."""

    def __iter__(self) -> Iterator[Any]: ...

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, behind the batches handed out so far."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Makes the next pass begin where the state was taken."""
        ...


def assert_resumable(
    loader: Resumable,
    *,
    fresh: Callable[[], Resumable] | None = None,
    epochs: int = 2,
    every: int = 1,
    most_after: int | None = None,
) -> None:
    """Makes sure that a loader goes on from every step's state with the very batches that would have come.

    Walks some epochs, taking the state after every step; then restores each of them and walks on to the same end, comparing all
    that a batch holds: tensors bit by bit. The loader is left at the state it came with. It takes as many passes as there are
    steps; restrict it with ``every`` and ``most_after`` where they are many.

    Args:
        loader: what to check; give its dataset's ``transform`` no randomness of its own.
        fresh: makes another loader like it, as a restarted process would; by default the states are restored to ``loader``.
        epochs: epochs to walk from where the loader stands.
        every: only every so many-th state is restored.
        most_after: batches compared after each; by default all up to the end.

    Raises:
        TypeError: a batch holds something that cannot be compared.
        AssertionError: a batch differs, is missing, or is one too many; the message says which, after which step.

    """
    began = copy.deepcopy(loader.state_dict())
    batches: list[str] = []
    names: list[str] = []
    states = [began]
    ends: list[int] = []
    for _ in range(epochs):
        for batch in loader:
            batches.append(_digest(batch))
            names.append(_name(batch))
            states.append(copy.deepcopy(loader.state_dict()))
        ends.append(len(batches))
    for step in range(0, len(batches), every):
        resumed = loader if fresh is None else fresh()
        resumed.load_state_dict(copy.deepcopy(states[step]))
        until = len(batches) if most_after is None else min(step + most_after, len(batches))
        # A state that was taken with the last batch of an epoch may have a pass of nothing to come.
        at, may_be_empty = step, step in ends
        while at < until:
            epoch_end = next(end for end in ends if end > at)
            passed = _walk(resumed, _Walked(batches, names, step), at, epoch_end, until)
            if passed == at and not may_be_empty:
                raise AssertionError(f"resumed after {step} steps, nothing came instead of {names[at]}")
            at, may_be_empty = passed, False
    loader.load_state_dict(began)


class _Walked(NamedTuple):
    batches: list[str]
    names: list[str]
    resumed_after: int


def _walk(loader: Resumable, walked: _Walked, at: int, epoch_end: int, until: int) -> int:
    """Compares a pass with the batches from `at` on; where it ended."""
    after = f"resumed after {walked.resumed_after} steps"
    began = at
    for batch in loader:
        if at == epoch_end:
            raise AssertionError(f"{after}, the epoch that ended with step {at} went on with {_name(batch)}")
        if _digest(batch) != walked.batches[at]:
            raise AssertionError(f"{after}, step {at + 1} is {_name(batch)} instead of {walked.names[at]}")
        at += 1
        if at == until < epoch_end:
            return at
    if began < at < epoch_end:
        raise AssertionError(f"{after}, the epoch ended before step {at + 1}, which is {walked.names[at]}")
    return at


def _name(batch: Any) -> str:
    index = batch.get("__index__") if isinstance(batch, Mapping) else None
    return "a batch" if index is None else f"the batch of samples {_plain(index)}"


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _digest(value: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for piece in _pieces(value):
        digest.update(len(piece).to_bytes(8))
        digest.update(piece)
    return digest.hexdigest()


def _pieces(value: Any) -> Iterable[bytes]:
    """All that there is to a value, as bytes."""
    if isinstance(value, Mapping):
        yield f"mapping {len(value)}".encode()
        for key, inner in value.items():
            yield from _pieces(key)
            yield from _pieces(inner)
    elif isinstance(value, str | bytes):
        yield type(value).__name__.encode()
        yield value if isinstance(value, bytes) else value.encode()
    elif hasattr(value, "dtype") and hasattr(value, "shape"):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield _memory(value)
    elif isinstance(value, Sequence) or hasattr(value, "__getitem__"):
        yield f"sequence {len(value)}".encode()
        for inner in value:
            yield from _pieces(inner)
    elif value is None or isinstance(value, bool | int | float | complex):
        yield f"{type(value).__name__} {value!r}".encode()
    elif hasattr(value, "__dict__"):
        yield type(value).__qualname__.encode()
        yield from _pieces(vars(value))
    else:
        raise TypeError(f"cannot compare a `{type(value).__qualname__}`: have the loader hand out something plainer")


def _memory(tensor: Any) -> bytes:
    if hasattr(tensor, "detach"):
        import torch

        plain = tensor.detach().cpu().contiguous()
        return bytes(plain.reshape(-1).view(torch.uint8).numpy()) if plain.numel() else b""
    return bytes(tensor.tobytes())
