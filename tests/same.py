"""Whether two decoded values are the same, bit for bit."""

from __future__ import annotations

from typing import Any

import torch


def assert_same(ours: Any, theirs: Any, where: str = "value") -> None:
    """Compares types, dtypes, shapes, strides and every bit."""
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, torch.Tensor), where
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), where
        assert ours.numel() == 0 or ours.stride() == theirs.stride(), where
        assert bits(ours) == bits(theirs.detach()), where
    elif isinstance(theirs, dict):
        assert type(ours) is type(theirs), where
        assert list(ours) == list(theirs), where
        for key in theirs:
            assert_same(ours[key], theirs[key], f"{where}[{key!r}]")
    elif isinstance(theirs, list | tuple):
        assert type(ours) is type(theirs), where
        assert len(ours) == len(theirs), where
        for at, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(mine, other, f"{where}[{at}]")
    elif isinstance(theirs, float):
        assert repr(ours) == repr(theirs), where
    else:
        assert type(ours) is type(theirs), where
        assert ours == theirs, where


def bits(tensor: torch.Tensor) -> bytes:
    """The elements' bytes in row-major order."""
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()) if tensor.numel() else b""
