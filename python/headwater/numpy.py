"""NumPy arrays, for those who do without torch. The only module that imports numpy at run time."""

from __future__ import annotations

from typing import Any

import numpy as np

from headwater._headwater import Framework, RawTensor

_EXTENSIONS = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")


def framework() -> Framework:
    """The callables that make numpy objects; a ``torch.Size`` becomes a tuple, a device its name."""
    return Framework(None, _from_raw, tuple, _dtype, str)


def _dtype(name: str) -> np.dtype[Any]:
    if name in _EXTENSIONS:
        try:
            import ml_dtypes
        except ImportError as error:
            raise ImportError(f"numpy has no {name}: pip install ml_dtypes, or use framework='torch'") from error
        extension: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return extension
    if name == "complex32":
        raise TypeError("numpy has no complex32: use framework='torch'")
    return np.dtype(name)


def _from_raw(raw: RawTensor) -> np.ndarray[Any, Any]:
    return np.ndarray(raw.shape, _dtype(raw.dtype), buffer=raw.memory(), strides=raw.strides)


def describe(value: object) -> tuple[str, Any] | None:
    """Takes arrays, numpy scalars and dtypes apart for saving."""
    if isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        name = array.dtype.name
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        memory = array.reshape(-1).view(np.uint8) if array.size else bytearray()
        return "tensor", (name, list(np.shape(value)), memory)
    if isinstance(value, np.dtype):
        return "dtype", value.name
    return None


def describe_scalar(value: object) -> tuple[str, Any] | None:
    """Takes numpy scalars for the numbers and strings that they are."""
    return ("scalar", value.item()) if isinstance(value, np.generic) else None


def describe_view(value: object) -> tuple[str, Any] | None:
    """Takes arrays apart over their own memory, for keeping a copy; those that only the interpreter can read are refused."""
    if not isinstance(value, np.ndarray | np.generic):
        return describe(value)
    array = np.asarray(value)
    if array.dtype.hasobject or array.dtype.names or (array.dtype.kind in "USVmM" and array.dtype.name not in _EXTENSIONS):
        raise TypeError(f"cannot keep an array of {array.dtype}")
    if array.dtype.byteorder == ">" or any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    strides = [stride // array.itemsize for stride in array.strides]
    last = sum((size - 1) * stride for size, stride in zip(array.shape, strides, strict=True))
    extent = (last + 1) * array.itemsize if array.size else 0
    return "view", (array.dtype.name, array.shape, strides, (array.ctypes.data, extent), array)
