"""Which framework's tensors samples are made of."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from headwater._headwater import Framework
from headwater.errors import ConfigError

FrameworkName: TypeAlias = Literal["torch", "numpy"]


def framework_of(name: FrameworkName | None) -> tuple[FrameworkName, Framework]:
    """Finds a framework by name; ``None`` takes torch where it is installed, else numpy."""
    if name is None:
        name = "torch" if importlib.util.find_spec("torch") is not None else "numpy"
    if name not in ("torch", "numpy"):
        raise ConfigError(f"cannot use framework `{name}`: known are 'torch' and 'numpy'")
    return name, _load(name)


@functools.cache
def _load(name: FrameworkName) -> Framework:
    try:
        if name == "torch":
            from headwater import torch as module

            return module.framework()
        from headwater import numpy as numpy_module

        return numpy_module.framework()
    except ImportError as error:
        raise ImportError(f"{name} is not installed: pip install 'headwater[{name}]'") from error


def describe(value: object) -> tuple[str, Any] | None:
    """Takes apart what only a framework knows, for saving; ``None`` for plain Python objects."""
    kind = type(value).__module__.partition(".")[0]
    if kind == "torch":
        from headwater import torch as module

        return module.describe(value)
    if kind in ("numpy", "ml_dtypes"):
        from headwater import numpy as numpy_module

        return numpy_module.describe(value)
    return None


def _scalar(value: object) -> tuple[str, Any] | None:
    from headwater import numpy as numpy_module

    return numpy_module.describe_scalar(value)


def describe_view(framework: FrameworkName) -> Callable[[object], tuple[str, Any] | None]:
    """What takes apart a framework's objects over their own memory, and refuses those of another one."""

    def described(value: object) -> tuple[str, Any] | None:
        kind = type(value).__module__.partition(".")[0]
        kind = "numpy" if kind == "ml_dtypes" else kind
        if kind not in ("torch", "numpy"):
            return None
        if kind != framework:
            # A number is one whoever made it; an array would come back as something else.
            if kind == "numpy" and (scalar := _scalar(value)) is not None:
                return scalar
            raise TypeError(f"cannot keep a `{type(value).__name__}` of {kind}: this cache is one of {framework} values")
        if framework == "torch":
            from headwater import torch as module

            return module.describe_view(value)
        from headwater import numpy as numpy_module

        return numpy_module.describe_view(value)

    return described


def default_collate(framework: FrameworkName) -> Callable[[list[Any]], Any]:
    """The framework's own way of putting samples together, for those that a transform has changed."""
    if framework != "torch":
        raise ConfigError("a dataset with a transform needs a collate_fn, unless its framework is 'torch'")
    from torch.utils.data import default_collate as collate

    return collate
