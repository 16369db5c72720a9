"""A folder of precomputed samples, as existing trainers name it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater.adapter.dataset import DEFAULT_MAPPING, IndexedDataset
from headwater.errors import ConfigError, NotFoundError

# What preprocessing calls the folder that it writes into.
_SUBFOLDER = ".precomputed"


class PrecomputedDataset(IndexedDataset):
    """Samples of a folder with a sub-folder for each field.

    ``dataset[i]`` is ``{output key: value, ..., "idx": i}``. Objects are of one sample whose names agree, in sub-folders too,
    also as ``latent_0007.pt`` and ``condition_0007.pt`` do; samples that lack an object are left out, and a warning names the
    first few. Latents that were kept patchified come as ``[C, F, H, W]``. Nothing is kept unless a ``cache`` is given.

    Args:
        data_root: the folder, or the one that has it as ``.precomputed``; or the URI of such a folder, without that search.
        data_sources: sub-folder → output key, or a list of sub-folders whose names are the keys; by default
            ``{"latents": "latent_conditions", "conditions": "text_conditions"}``.
        **arguments: those of :class:`headwater.StreamingDataset`, such as ``cache`` and ``storage_options``.

    Raises:
        NotFoundError: the folder or a sub-folder does not exist, or there is no sample that has all fields.
        TypeError: ``data_sources`` is neither a dict nor a list.
        ConfigError: an argument cannot be meant.

    """

    def __init__(
        self,
        data_root: str | os.PathLike[str],
        data_sources: Mapping[str, str] | Sequence[str] | None = None,
        **arguments: Any,
    ) -> None:
        names = _names(data_sources)
        root = os.fspath(data_root)
        if "://" not in root:
            root = str(_folder(Path(root).expanduser()))
        super().__init__({name: f"{root.rstrip('/')}/{name}" for name in names}, names, **arguments)


def _names(data_sources: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    if data_sources is None:
        return dict(DEFAULT_MAPPING)
    if isinstance(data_sources, Mapping):
        return dict(data_sources)
    if isinstance(data_sources, list | tuple):
        return {name: name for name in data_sources}
    raise TypeError(f"cannot use data_sources of type `{type(data_sources).__name__}`: give a dict or a list of folders")


def _folder(root: Path) -> Path:
    if not root.is_dir():
        if root.exists():
            raise ConfigError(f"cannot use `{root}` as data_root: it is no folder")
        raise NotFoundError(f"cannot use `{root}` as data_root: it does not exist")
    precomputed = root / _SUBFOLDER
    return precomputed if precomputed.is_dir() else root
