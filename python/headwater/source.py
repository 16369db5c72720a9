"""A place where objects are, with the options to reach it."""

from __future__ import annotations

import json
import multiprocessing.context
from dataclasses import dataclass
from typing import Any, TypeAlias

from headwater import _headwater
from headwater.credentials import CredentialsFunction, named_credentials
from headwater.errors import ConfigError

Option: TypeAlias = str | bool | int | float


@dataclass(frozen=True, init=False, repr=False)
class Source:
    """A URI with options; stands wherever a URI may.

    Args:
        uri: a path, ``file:///path``, ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://container/prefix``,
            ``hf://datasets/org/name@revision/path`` or ``https://host/path``.
        credentials: called when credentials are needed and when those it gave have expired; returns a dict of the options they
            are, such as ``{"token": ..., "expires_at": datetime}``. Called from a thread of its own.
        **options: how to reach it, by kind (see the guide of sources): ``endpoint``, ``region``, ``anonymous``, ``profile``,
            ``access_key_id``, ``secret_access_key``, ``token``, ... Prefer the standard credential chains to the last three.

    """

    uri: str
    options: dict[str, Option]

    credentials: CredentialsFunction | None

    def __init__(self, uri: str, *, credentials: CredentialsFunction | Option | None = None, **options: Option) -> None:
        if credentials is not None and not callable(credentials):
            raise ConfigError("cannot use `credentials`: give a function that returns them")
        object.__setattr__(self, "uri", str(uri))
        object.__setattr__(self, "credentials", credentials)
        object.__setattr__(self, "options", {name: value for name, value in options.items() if value is not None})

    def __repr__(self) -> str:
        options = f", options: {', '.join(sorted(self.options))}" if self.options else ""
        shown, _ = _headwater.describe_source(json.dumps(self.uri))
        return f"<Source {shown!r}{options}>"

    def __hash__(self) -> int:
        return hash((self.uri, self.credentials, tuple(sorted(self.options.items()))))

    def __reduce__(self) -> tuple[Any, ...]:
        # Explicit credentials are handed to a worker that multiprocessing is starting, and written nowhere else.
        _, has_secrets = _headwater.describe_source(json.dumps(self._config()))
        if has_secrets and multiprocessing.context.get_spawning_popen() is None:
            raise ConfigError("cannot pickle a Source with explicit credentials: use the standard chains instead")
        return _made, (self.uri, self.options, self.credentials)

    def __copy__(self) -> Source:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Source:
        return self

    def _config(self) -> dict[str, Option]:
        given = {} if self.credentials is None else {"credentials": named_credentials(self.credentials)}
        return {"uri": self.uri, **self.options, **given}


def _made(uri: str, options: dict[str, Option], credentials: CredentialsFunction | None) -> Source:
    return Source(uri, credentials=credentials, **options)
