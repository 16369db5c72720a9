"""One object without a dataset."""

from __future__ import annotations

import os
from typing import Any

from headwater import _headwater
from headwater.frameworks import FrameworkName, describe, framework_of


def load(path: str | os.PathLike[str], *, framework: FrameworkName | None = None) -> Any:
    """Reads one local ``.pt``, ``.safetensors`` or ``.npy`` file, plain or ``.zst``, without executing anything in it.

    Args:
        path: the file; its suffixes say how it is read.
        framework: ``"torch"`` or ``"numpy"``; by default torch where it is installed.

    Returns:
        What ``torch.load`` would: dicts, lists, scalars and tensors with the file's dtypes, shapes and strides, on the CPU.

    Raises:
        NotFoundError: there is no such file.
        CorruptDataError: it is damaged; the message names file and offset.
        UnsupportedError: it holds something else than tensors and plain data.

    """
    return _headwater.load(os.fspath(path), framework_of(framework)[1])


def loads(data: bytes, name: str = "object.pt", *, framework: FrameworkName | None = None) -> Any:
    """Decodes bytes as :func:`load` decodes a file; the suffixes of ``name`` say how. The bytes are copied once."""
    return _headwater.loads(data, name, framework_of(framework)[1])


def save(value: Any, path: str | os.PathLike[str]) -> None:
    """Writes tensors, arrays, dicts, lists and scalars as a ``.pt`` file that ``torch.load(weights_only=True)`` reads.

    Tensors are written contiguous. The file appears whole or not at all.

    Raises:
        TypeError: something in it is neither plain data nor a dense tensor.
        StorageError: the file cannot be written.

    """
    _headwater.save(value, os.fspath(path), describe)
