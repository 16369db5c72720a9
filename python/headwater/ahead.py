"""Batches taken from a pass before they are asked for, to be placed meanwhile. Imports torch."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from headwater._headwater import Batches, Behind
from headwater.passes import Pass

if TYPE_CHECKING:
    from headwater.dataset import StreamingDataset
    from headwater.device import Placed, Placing
    from headwater.transforms import Finish


class Ahead(Pass):
    """Batches of one pass, placed ahead of the consumer: on its own thread, a little at every step.

    A batch counts as handed out when it is, and an error is raised where its batch would have come. Nothing is taken ahead that
    is not ready: this waits for the batch that is asked for and for no other. Where functions of the user's are called on this
    thread (``finish``), nothing is taken ahead at all: when they are called must not depend on how fast sources are.
    """

    def __init__(
        self, batches: Batches, dataset: StreamingDataset, finish: Finish | None, placing: Placing, *, is_ours: bool
    ) -> None:
        super().__init__(batches, dataset, finish)
        self._placing, self._is_ours = placing, is_ours
        self._most_ahead = placing.ahead if finish is None else 0
        self._taken: collections.deque[_Taken] = collections.deque()
        self._lock = threading.RLock()
        self._owner = os.getpid()
        self._is_closed = False

    @property
    def is_over(self) -> bool:
        """Whether nothing will come any more."""
        return self._is_closed or (super().is_over and not self._taken)

    def __next__(self) -> Any:
        if os.getpid() != self._owner:
            # Of a lock that another thread held at the fork nobody will ever let go; this says whose the batches are.
            self._batches.take(True)
            raise StopIteration
        # Batches that are taken ahead are for steps of other modes.
        with self._lock, torch.inference_mode(False) if self._finish is None else contextlib.nullcontext():
            if not self._taken:
                self._take(wait=True)
            while self._taken and len(self._taken) <= self._most_ahead and self._take(wait=False):
                pass
            if self._is_closed or not self._taken:
                self._taken.clear()
                raise StopIteration
            first, *others = self._taken
            began = time.perf_counter()
            first.send()
            # Out of memory, say: that is tried again, and raised, when it is that batch's turn.
            with contextlib.suppress(RuntimeError):
                for other in others:
                    other.place()
                for other in itertools.takewhile(lambda taken: taken.is_copied, others):
                    other.send()
            waited = time.perf_counter() - began
            if self._is_closed:
                self._taken.clear()
                raise StopIteration
            try:
                return first.hand_over(waited)
            finally:
                # What could not be handed over is tried again. A signal handler may have closed everything meanwhile.
                if first.is_over and self._taken:
                    self._taken.popleft()

    def begin_anew(self, batches: Batches) -> None:
        """Goes through other batches instead; nothing was taken yet."""
        with self._lock:
            self._taken.clear()
            super().begin_anew(batches)

    def close(self) -> None:
        """Cancels what is under way."""
        self._is_closed = True
        super().close()
        # Whoever is in a step meanwhile, be it the thread that a signal handler calls this on, sees to what was taken.
        if os.getpid() == self._owner and self._lock.acquire(blocking=False):
            try:
                self._taken.clear()
            finally:
                self._lock.release()

    def _take(self, wait: bool) -> bool:
        try:
            taken = self._batches.take(wait)
        except Exception as error:
            if wait:
                raise
            self._taken.append(_Taken(self._placing, None, None, error))
            return False
        if taken is None:
            return False
        value, behind, raised = taken
        if self._is_closed:
            return False
        finish, batches = self._finish, self._batches
        finished = None if finish is None else lambda samples: finish(samples, batches)
        self._taken.append(_Taken(self._placing, value, behind, raised, finished, is_ours=self._is_ours))
        return True


class _Taken:
    """A batch that was taken, or the error in its place."""

    def __init__(
        self,
        placing: Placing,
        value: Any,
        behind: Behind | None,
        error: BaseException | None,
        finish: Callable[[Any], Any] | None = None,
        *,
        is_ours: bool = True,
    ) -> None:
        self._placing, self._value, self._behind, self._error = placing, value, behind, error
        self._finish, self._is_ours = finish, is_ours
        self._placed: Placed | None = None
        self.is_over = False

    @property
    def is_copied(self) -> bool:
        return self._error is not None or (self._placed is not None and self._placed.is_copied)

    def place(self) -> None:
        """Begins to copy it to where it is sent from."""
        if self._error is None and self._finish is not None:
            try:
                self._value = self._finish(self._value)
            except Exception as error:
                self._error = error
            self._finish = None
        if self._error is None and self._placed is None:
            self._placed = self._placing.begin(self._value, is_ours=self._is_ours)
            self._value = None

    def send(self) -> None:
        """Goes on as far as is possible without the consumer."""
        self.place()
        if self._placed is not None:
            self._placed.send()

    def hand_over(self, waited: float) -> Any:
        """The batch, which counts as handed out from now on."""
        value = None if self._placed is None else self._placed.hand_over()
        self.is_over = True
        if self._behind is not None:
            self._behind.hand_out(waited)
        if self._error is not None:
            try:
                raise self._error
            finally:
                # Its traceback leads here: nothing of the pass is to live on with the error.
                self._error = None
        return value
