"""A place where objects are, with the options to reach it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Option: TypeAlias = str | bool | int | float


@dataclass(frozen=True, init=False, repr=False)
class Source:
    """A URI with options; stands wherever a URI may.

    Args:
        uri: a path, ``file:///path`` or ``s3://bucket/prefix``.
        **options: how to reach it: ``endpoint``, ``region``, ``anonymous``, ``path_style``, ``allow_http``,
            ``access_key_id``, ``secret_access_key``, ``token``. Prefer the standard credential chains to the last three.

    """

    uri: str
    options: dict[str, Option]

    def __init__(self, uri: str, **options: Option) -> None:
        object.__setattr__(self, "uri", str(uri))
        object.__setattr__(self, "options", {name: value for name, value in options.items() if value is not None})

    def __repr__(self) -> str:
        options = f", options: {', '.join(sorted(self.options))}" if self.options else ""
        return f"<Source {self.uri!r}{options}>"

    def _config(self) -> dict[str, Option]:
        return {"uri": self.uri, **self.options}
