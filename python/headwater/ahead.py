"""Batches taken from a pass before they are asked for, to be placed meanwhile."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from headwater._headwater import Batches, Behind

if TYPE_CHECKING:
    from headwater.dataset import StreamingDataset
    from headwater.device import Placed, Placing


class Ahead(Iterator[Any]):
    """Batches of one pass, placed ahead of the consumer: on its own thread, a little at every step.

    A batch counts as handed out when it is, and an error is raised where its batch would have come. Nothing is taken ahead that
    is not ready: this waits for the batch that is asked for and for no other.
    """

    def __init__(
        self, batches: Batches, dataset: StreamingDataset, finish: Callable[[Any], Any] | None, placing: Placing
    ) -> None:
        # Also so that the dataset's functions are there while batches are.
        self._dataset = dataset
        self._batches, self._finish, self._placing = batches, finish, placing
        self._taken: collections.deque[_Taken] = collections.deque()
        self._lock = threading.RLock()
        self._owner = os.getpid()
        self._is_closed = False

    def __next__(self) -> Any:
        if os.getpid() != self._owner:
            # Of a lock that another thread held at the fork nobody will ever let go; this says whose the batches are.
            self._batches.take(True)
            raise StopIteration
        with self._lock:
            if not self._taken:
                self._take(wait=True)
            while self._taken and len(self._taken) <= self._placing.ahead and self._take(wait=False):
                pass
            if not self._taken:
                raise StopIteration
            first, *others = self._taken
            first.send()
            # What fails here is raised when it is that batch's turn.
            with contextlib.suppress(Exception):
                for other in itertools.takewhile(lambda taken: taken.is_copied, others):
                    other.send()
            self._taken.popleft()
            return first.hand_over()

    def close(self) -> None:
        """Cancels what is under way."""
        self._batches.close()
        if os.getpid() == self._owner:
            with self._lock:
                self._is_closed = True
                self._taken.clear()

    def _take(self, wait: bool) -> bool:
        try:
            taken = self._batches.take(wait)
        except Exception as error:
            if wait:
                raise
            self._taken.append(_Taken(None, error))
            return False
        if taken is None:
            return False
        batch, behind = taken
        placed: Placed | Exception
        try:
            value = batch if self._finish is None else self._finish(batch)
            placed = self._placing.begin(value, is_ours=self._finish is None)
        except Exception as error:
            placed = error
        if self._is_closed:
            return False
        self._taken.append(_Taken(behind, placed))
        return True


class _Taken:
    """A batch that was taken, or the error in its place."""

    def __init__(self, behind: Behind | None, placed: Placed | Exception) -> None:
        self._behind, self._placed = behind, placed

    @property
    def is_copied(self) -> bool:
        return isinstance(self._placed, Exception) or self._placed.is_copied

    def send(self) -> None:
        if not isinstance(self._placed, Exception):
            self._placed.send()

    def hand_over(self) -> Any:
        if self._behind is not None:
            self._behind.hand_out()
        if isinstance(self._placed, Exception):
            raise self._placed
        return self._placed.hand_over()
