"""What Python runs first in every process of an example under test, so that the example need not know that it is watched.

Writes down which samples the loader of each rank hands out, kills a process in the middle of its work, once, where told to, and
hides a package as if it were not installed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import headwater as hw

FOLDER = Path(os.environ["WATCH_FOLDER"])
# The rank to kill, after how many batches of one process, and for how many seconds it hangs before.
KILL = json.loads(os.environ.get("WATCH_KILL", "null"))

HIDDEN = os.environ.get("WATCH_HIDDEN")

_begin = hw.StreamingDataLoader.__iter__
_began = time.time_ns()
_handed_out = 0


class _Watched(Iterator[Any]):
    def __init__(self, loader: hw.StreamingDataLoader) -> None:
        self._pass = _begin(loader)
        config = json.loads(loader._native.config)
        self._rank, self._world_size = config["rank"], config["world_size"]

    def __next__(self) -> Any:
        global _handed_out  # noqa: PLW0603 - of the process, which may begin many passes
        batch = next(self._pass)
        _handed_out += 1
        line = {"rank": self._rank, "world_size": self._world_size, "indices": batch["__index__"].tolist()}
        with (FOLDER / f"{_began}-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if KILL is not None and (self._rank, _handed_out) == (KILL["rank"], KILL["batch"]):
            self._die_once()
        return batch

    def _die_once(self) -> None:
        try:
            (FOLDER / "killed").touch(exist_ok=False)
        except FileExistsError:
            return
        time.sleep(KILL["seconds"])
        os.kill(os.getpid(), signal.SIGKILL)


def _watched(loader: hw.StreamingDataLoader) -> Iterator[Any]:
    return _Watched(loader)


hw.StreamingDataLoader.__iter__ = _watched  # type: ignore[method-assign]


class _Hiding:
    """A finder of modules that does not find one package."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def find_spec(self, name: str, *others: Any) -> Any:
        return None if name.partition(".")[0] == HIDDEN else self._finder.find_spec(name, *others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


if HIDDEN is not None:
    sys.meta_path[:] = [_Hiding(finder) for finder in sys.meta_path]
