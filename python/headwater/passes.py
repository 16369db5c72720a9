"""Passes over an epoch, as a loader hands them out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater._headwater import Batches
    from headwater.dataset import StreamingDataset
    from headwater.transforms import Finish


class Pass(Iterator[Any]):
    """The batches of one pass, as the core assembles them.

    Args:
        batches: what to hand out.
        dataset: what they are of: its functions are there while batches are.
        finish: what is to be done with samples on the consuming thread to make a batch of them.

    """

    def __init__(self, batches: Batches, dataset: StreamingDataset, finish: Finish | None) -> None:
        self._batches, self._dataset, self._finish = batches, dataset, finish

    @property
    def is_over(self) -> bool:
        """Whether nothing will come any more."""
        return self._batches.is_over

    def __next__(self) -> Any:
        if self._finish is None:
            return next(self._batches)
        taken = self._batches.take(True)
        if taken is None:
            raise StopIteration
        samples, behind, _ = taken
        behind.hand_out(0.0)
        return self._finish(samples, self._batches)

    def begin_anew(self, batches: Batches) -> None:
        """Goes through other batches instead; nothing was taken yet."""
        self._batches.close()
        self._batches = batches

    def close(self) -> None:
        """Cancels what is under way."""
        self._batches.close()
