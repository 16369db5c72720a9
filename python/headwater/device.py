"""Batches in page-locked memory and on devices. Imports torch.

Page-locked memory is always torch's own: its allocator alone knows when asynchronous copies out of it are done. It is taken
on the consumer's thread and written by native threads, which need no interpreter. From there a batch is copied to its device on
a stream beside the consumer's; the consumer's stream waits for that copy when the batch is handed over, the processor does not.
"""

from __future__ import annotations

import collections
import copy
import functools
import warnings
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import torch

from headwater._headwater import Copies
from headwater.errors import ConfigError

# Batches that may be on their way to the device at once; more would only take page-locked memory.
_MOST_SENT = 3
# Devices whose streams torch has the same calls for.
_WITH_STREAMS = ("cuda", "xpu")


class Placement:
    """Where a loader's batches go.

    Args:
        pin_memory: to page-locked memory, where there is an accelerator.
        device: to a device, through page-locked memory where it copies asynchronously; a number is one of the accelerator's.

    Raises:
        ConfigError: torch knows no such device, or finds none here.

    """

    def __init__(self, pin_memory: bool, device: str | None) -> None:
        self.device = None if device is None else _device(device)
        if self.device is not None and self.device.type == "cpu":
            self.device = None
        self.has_streams = self.device is not None and self.device.type in _WITH_STREAMS
        self.pins = self.has_streams
        if pin_memory and not self.pins:
            self.pins = _pins()
            if not self.pins:
                _warn("pin_memory=True does nothing here: torch finds no accelerator that takes page-locked memory")

    @property
    def does_nothing(self) -> bool:
        """Whether batches stay as they are."""
        return not self.pins and self.device is None

    def of_pass(self) -> Placing:
        """Begins a pass; a device without a number is the current one from now on."""
        device = self.device
        if device is not None and self.has_streams and device.index is None:
            device = torch.device(device.type, _module_of(device).current_device())
        return Placing(device, self.pins, self.has_streams)


class Placing:
    """Places the batches of one pass, in order."""

    def __init__(self, device: torch.device | None, pins: bool, has_streams: bool) -> None:
        self.device, self.pins = device, pins
        self.side_device = device if has_streams else None
        # One batch is copied to page-locked memory and one to the device while the consumer has a third.
        self.ahead = 2 if has_streams else 1 if pins else 0
        self._sent: collections.deque[Any] = collections.deque()

    def begin(self, value: Any, *, is_ours: bool) -> Placed:
        """Begins to place a batch; what is not ours alone is copied before this returns."""
        if not self.pins:
            return Placed(self, value, None)
        pieces: list[tuple[int, int, int]] = []
        owners: list[torch.Tensor] = []
        has_own = False

        def pin(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal has_own
            if tensor.device.type != "cpu":
                return tensor
            if not is_ours and _is_pinned(tensor):
                has_own = True
                return tensor
            if not _is_plain(tensor) or not tensor.is_contiguous():
                return _pinned_by_torch(tensor)
            pinned = _pinned_like(tensor)
            if tensor.nbytes and not (tensor.data_ptr() and pinned.data_ptr()):
                # One of those that are no memory at all.
                return _pinned_by_torch(tensor)
            pieces.append((tensor.data_ptr(), pinned.data_ptr(), tensor.nbytes))
            owners.extend((tensor, pinned))
            return pinned

        value = mapped(value, pin, _pin_object)
        copies = Copies(pieces, owners)
        if not is_ours:
            copies.wait()
        return Placed(self, value, copies, has_own)

    def send(self, value: Any, device: torch.device) -> Sent:
        """Begins to copy a batch to a device, on the stream beside the consumer's."""
        while len(self._sent) >= _MOST_SENT:
            self._sent.popleft().synchronize()
        side = side_stream(device)
        sent = Sent(device)

        def send(tensor: torch.Tensor) -> torch.Tensor:
            # What a stream of the user's may still be writing, and what has no single memory, waits for the consumer's stream.
            if tensor.device.type != "cpu" or not _is_plain(tensor):
                sent.is_whole = False
                return tensor
            moved = tensor.to(device, non_blocking=True)
            sent.tensors.append(moved)
            return moved

        def leave(value: Any) -> Any:
            if not _moves(value):
                return NotImplemented
            sent.is_whole = False
            return value

        with _module_of(device).stream(side):
            sent.value = mapped(value, send, leave)
        sent.event = side.record_event()
        self._sent.append(sent.event)
        return sent


class Placed:
    """A batch on its way."""

    def __init__(self, placing: Placing, value: Any, copies: Copies | None, has_own: bool = False) -> None:
        self._placing, self._value, self._copies = placing, value, copies
        # Whether the user may write to what is sent as soon as the batch is handed over.
        self._has_own = has_own
        self._sent: Sent | None = None

    @property
    def is_copied(self) -> bool:
        """Whether sending it need not wait."""
        return self._copies is None or self._copies.is_done

    def send(self) -> None:
        """Goes on as far as is possible without the consumer; waits until the batch is in page-locked memory."""
        if self._copies is not None:
            self._copies.wait()
            self._copies = None
        if self._sent is None and self._placing.side_device is not None:
            self._sent = self._placing.send(self._value, self._placing.side_device)
            self._value = None

    def hand_over(self) -> Any:
        """The batch, for work on the current stream."""
        self.send()
        if self._sent is not None:
            if self._has_own:
                self._sent.event.synchronize()
            return self._sent.hand_over()
        device = self._placing.device
        return self._value if device is None else mapped(self._value, lambda it: it.to(device), lambda it: _moved(it, device))


class Sent:
    """A batch that is being copied to a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.value: Any = None
        self.event: Any = None
        self.tensors: list[torch.Tensor] = []
        self.is_whole = True

    def hand_over(self) -> Any:
        """Has the current stream wait for the copy, and the memory for the current stream before it is used again."""
        stream, device = _module_of(self.device).current_stream(self.device), self.device
        stream.wait_event(self.event)
        for tensor in self.tensors:
            _record(tensor, stream)
        if self.is_whole:
            return self.value
        return mapped(self.value, lambda it: it.to(device, non_blocking=True), lambda it: _moved(it, device))


def mapped(value: Any, tensor: Callable[[torch.Tensor], Any], other: Callable[[Any], Any]) -> Any:
    """Replaces tensors in dicts, lists and tuples, as torch's ``DataLoader`` does.

    ``other`` replaces any other object, or is ``NotImplemented`` for one that is to be entered.
    """
    if isinstance(value, torch.Tensor):
        return tensor(value)
    replaced = value if isinstance(value, str | bytes) else other(value)
    if replaced is not NotImplemented:
        return replaced
    if isinstance(value, Mapping):
        items = {key: mapped(item, tensor, other) for key, item in value.items()}
        return _refilled(value, items, isinstance(value, MutableMapping))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(item, tensor, other) for item in value))
    if isinstance(value, Sequence):
        made = [mapped(item, tensor, other) for item in value]
        return _refilled(value, made, isinstance(value, MutableSequence))
    return value


def _refilled(value: Any, items: Any, is_mutable: bool) -> Any:
    """Another of the value's type, with other items; a plain one where that cannot be."""
    if type(value) in (dict, list):
        return items
    try:
        if not is_mutable:
            return type(value)(items)
        made = copy.copy(value)
        if isinstance(items, dict):
            made.update(items)
        else:
            for at, item in enumerate(items):
                made[at] = item
    except TypeError:
        return items
    return made


@functools.cache
def side_stream(device: torch.device) -> Any:
    """The stream on which this process copies batches to a device. One, since torch keeps memory for each."""
    return _module_of(device).Stream(device=device)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(int(name)) if name.isdigit() else torch.device(name)
    except (RuntimeError, ValueError, OverflowError) as error:
        raise ConfigError(f"cannot use device={name!r}: give what torch.device takes, such as 'cuda' or 'cuda:1'") from error
    if device.type in ("cpu", "meta"):
        return device
    module = _module_of(device)
    if module is None or not module.is_available():
        raise ConfigError(f"cannot use device={name!r}: torch finds no such device here")
    if device.index is not None and device.index >= module.device_count():
        raise ConfigError(f"cannot use device={name!r}: torch finds {module.device_count()} such devices here")
    return device


def _module_of(device: torch.device) -> Any:
    """What torch has for devices of that type, such as ``torch.cuda``."""
    return getattr(torch, device.type, None)


def _pins() -> bool:
    accelerator = getattr(torch, "accelerator", None)
    if accelerator is None:
        return torch.cuda.is_available()
    return bool(accelerator.is_available()) and accelerator.current_accelerator().type != "mps"


@functools.cache
def _warn(message: str) -> None:
    """Warns once."""
    warnings.warn(message, stacklevel=6)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether it is its memory and nothing else."""
    return (
        type(tensor) is torch.Tensor
        and tensor.layout == torch.strided
        and not (tensor.requires_grad or tensor.is_conj() or tensor.is_neg())
        and not (tensor.is_nested or tensor.is_quantized)
    )


def _is_pinned(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.is_pinned()


def _pinned_by_torch(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that is torch's affair. What it has no way to copy so is left as it is."""
    try:
        return tensor.pin_memory()
    except NotImplementedError:
        return tensor


def _pinned_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)


def _record(tensor: torch.Tensor, stream: Any) -> None:
    tensor.record_stream(stream)


def _pin_object(value: Any) -> Any:
    return value.pin_memory() if hasattr(value, "pin_memory") else NotImplemented


def _moves(value: Any) -> bool:
    return callable(getattr(value, "to", None))


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if _moves(value) else NotImplemented
