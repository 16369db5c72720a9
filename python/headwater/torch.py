"""Torch tensors. With ``device.py`` the only module that imports torch."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

from headwater._headwater import Framework, RawTensor


def framework() -> Framework:
    """The callables that make torch objects."""
    # The public function looks at what it is given first; ours is always a capsule, and there are several to a sample.
    direct = getattr(torch._C, "_from_dlpack", from_dlpack)
    return Framework(direct, _from_raw, torch.Size, _dtype, torch.device)


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"torch has no dtype {name}")
    return dtype


def _from_raw(raw: RawTensor) -> torch.Tensor:
    dtype = _dtype(raw.dtype)
    strides = [stride // dtype.itemsize for stride in raw.strides]
    memory = raw.memory()
    if not memory.nbytes:
        return torch.empty(raw.shape, dtype=dtype)
    flat = torch.frombuffer(memory, dtype=torch.uint8)
    if flat.data_ptr() % dtype.itemsize:
        flat = flat.clone()
    whole = flat[: flat.numel() // dtype.itemsize * dtype.itemsize].view(dtype)
    return whole.as_strided(raw.shape, strides)


def describe(value: object) -> tuple[str, Any] | None:
    """Takes torch objects apart for saving; tensors are made contiguous on the CPU."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided:
            raise TypeError(f"cannot save a tensor of layout {value.layout}")
        plain = value.detach().cpu().contiguous().resolve_conj().resolve_neg()
        memory = plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else bytearray()
        return "tensor", (str(plain.dtype).removeprefix("torch."), list(plain.shape), memory)
    if isinstance(value, torch.Size):
        return "size", list(value)
    if isinstance(value, torch.dtype):
        return "dtype", str(value).removeprefix("torch.")
    if isinstance(value, torch.device):
        return "device", str(value)
    return None


def describe_view(value: object) -> tuple[str, Any] | None:
    """Takes torch objects apart over their own memory, with their strides, for keeping a copy."""
    if not isinstance(value, torch.Tensor):
        return describe(value)
    if value.layout != torch.strided or value.is_quantized:
        kind = "quantized tensor" if value.is_quantized else f"tensor of layout {value.layout}"
        raise TypeError(f"cannot keep a {kind}")
    if value.device.type != "cpu":
        raise TypeError(f"cannot keep a tensor on {value.device}: move it to the CPU first")
    plain = value.detach().resolve_conj().resolve_neg()
    shape, strides = plain.shape, plain.stride()
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    extent = (last + 1) * plain.element_size() if plain.numel() else 0
    return "view", (str(plain.dtype).removeprefix("torch."), shape, strides, (plain.data_ptr(), extent), plain)
