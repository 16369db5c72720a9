"""Sources of objects by path, as existing trainers ask them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, ClassVar

from headwater import _headwater
from headwater.adapter.awaiting import outcome
from headwater.adapter.config import DataSourceConfig
from headwater.errors import ConfigError
from headwater.frameworks import framework_of

Path = str | os.PathLike[str]


class DataSource:
    """The objects of one place, read by path.

    Any number of threads and event loops may use it at once, and so may processes that were forked or spawned: each connects by
    itself. Requests are tried again, limited and hedged as those of a dataset are.

    Args:
        config: where it is, and how to reach it.

    Raises:
        NotFoundError: the place does not exist.
        ConfigError: the place is none of the source's type, or its credentials are unknown to it.
        AccessDeniedError, UnavailableError, DeadlineError: the place cannot be reached.

    """

    # The type that a class is for; any, of the base.
    source_type: ClassVar[str | None] = None

    def __init__(self, config: DataSourceConfig) -> None:
        if self.source_type is not None and config.source_type != self.source_type:
            raise ConfigError(f"cannot use `{config.name}`: it is of type `{config.source_type}`, not `{self.source_type}`")
        self.config = config
        # Held, since it names a function that gives credentials, which is there only as long as its name is.
        self._described = config.source()._config()
        self._place = _headwater.Place.open(json.dumps(self._described), framework_of(None)[1])

    async def fetch_file(self, path: Path, decompress: bool = True) -> dict[str, Any]:
        """Reads and decodes an object; where there is no ``x.pt``, ``x.pt.zst`` is read. The event loop goes on meanwhile.

        Args:
            path: of a ``.pt``, ``.safetensors`` or ``.npy`` object, plain or ``.zst``, below the place's root.
            decompress: whether compressed objects are read; without, they are neither looked for nor accepted.

        Returns:
            What ``torch.load`` would, without executing anything: tensors with the object's dtypes, shapes and strides, in
            memory of the caller's own. What is no dict is ``"data"`` in one.

        Raises:
            NotFoundError: there is no such object.
            ConfigError: the path leaves the root.
            CorruptDataError, UnsupportedError: it cannot be decoded; the message names it and the offset.
            AccessDeniedError, UnavailableError, DeadlineError: the place cannot be reached.

        """
        name = os.fspath(path)
        value: dict[str, Any] = await outcome(lambda number: self._place.begin_get(number, name, decompress))
        return value

    def fetch_file_sync(self, path: Path, decompress: bool = True) -> dict[str, Any]:
        """Does what :meth:`fetch_file` does, on the calling thread."""
        value: dict[str, Any] = self._place.get(os.fspath(path), decompress)
        return value

    def list_files(self, directory: Path = "") -> list[str]:
        """Paths of all ``.pt`` and ``.pt.zst`` objects in a folder and below it, sorted; as :meth:`fetch_file` takes them.

        Raises:
            NotFoundError: there is nothing below the folder.

        """
        return self._place.list(os.fspath(directory))

    async def prefetch_files(self, paths: Sequence[Path]) -> dict[str, bool]:
        """Fetches objects concurrently and holds them until they are asked for.

        They take no more memory than the smaller of 1 GB and a sixteenth of what this process may use; what has been there for
        a minute gives way to others. What fails stops no other, and is raised when it is asked for.

        Returns:
            Of each path, whether the object is there now.

        """
        names = [os.fspath(path) for path in paths]
        there: list[bool] = await outcome(lambda number: self._place.begin_prefetch(number, names))
        return dict(zip(names, there, strict=True))

    def prefetch_files_sync(self, paths: Sequence[Path]) -> dict[str, bool]:
        """Does what :meth:`prefetch_files` does, on the calling thread."""
        names = [os.fspath(path) for path in paths]
        return dict(zip(names, self._place.prefetch(names), strict=True))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.config!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # The configuration refuses where it holds explicit credentials.
        return type(self), (self.config,)


class LocalDataSource(DataSource):
    """A folder of this machine."""

    source_type = "local"


class HuggingFaceDataSource(DataSource):
    """A repository of the Hugging Face Hub, or a folder of one: ``"org/name"``, ``"hf://datasets/org/name@revision/path"``."""

    source_type = "huggingface"


class S3DataSource(DataSource):
    """A bucket of S3 or a compatible server, or a folder of one."""

    source_type = "s3"


class GCSDataSource(DataSource):
    """A bucket of Google Cloud Storage, or a folder of one."""

    source_type = "gcs"


class AzureDataSource(DataSource):
    """A container of Azure Blob Storage, or a folder of one."""

    source_type = "azure"


class HTTPDataSource(DataSource):
    """A folder of a web server that lists its folders."""

    source_type = "http"


_CLASSES: dict[str, type[DataSource]] = {
    kind.source_type: kind
    for kind in (LocalDataSource, HuggingFaceDataSource, S3DataSource, GCSDataSource, AzureDataSource, HTTPDataSource)
    if kind.source_type is not None
}


def create_data_source(config: DataSourceConfig) -> DataSource:
    """The source that a configuration describes.

    Raises:
        ConfigError: there is no such type; the message names those that there are.
        NotFoundError, AccessDeniedError, UnavailableError, DeadlineError: the place does not exist, or cannot be reached.

    """
    if config.source_type not in _CLASSES:
        raise ConfigError(f"cannot use source type `{config.source_type}`: available are {', '.join(_CLASSES)}")
    return _CLASSES[config.source_type](config)
