"""Runs a command beside the servers that tests use; each is described to it by a variable that holds JSON.

    python tests/servers/run.py -- pytest tests         # all that are installed; the exit status is the command's
    python tests/servers/run.py --only s3,http -- ...   # some
    python tests/servers/run.py                         # prints NAME=JSON lines, serves until stdin closes or SIGTERM

A variable that is set already describes a server of yours, so none is started for it. What is not installed is named and left
out; under CI=true that is an error, because there nothing may be left out.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # `servers` is a package, which a script inside would not find
from servers.keeper import SERVERS, end_in_order, serving, wait_until_unwanted  # noqa: E402 - found only now
from servers.process import StartError, die_with  # noqa: E402 - the same

EXIT_MISSING = 69  # EX_UNAVAILABLE: a program is not installed


def main(arguments: Sequence[str]) -> int:
    """The command line: `[--only names] [-- command args…]`."""
    parent = os.getppid()
    names, command = understood(arguments)
    end_in_order(parent)
    wanted = [name for name in names if not os.environ.get(SERVERS[name].variable)]
    absent = {name: missing for name in wanted if (missing := SERVERS[name].missing())}
    strict = os.environ.get("CI") == "true" or not command
    for name, missing in absent.items():
        consequence = "" if strict else f": {SERVERS[name].variable} stays unset"
        print(f"servers: no {name}, not installed: {', '.join(missing)} (`make test-servers`){consequence}", file=sys.stderr)
    if absent and strict:
        return EXIT_MISSING
    try:
        with serving(*(name for name in wanted if name not in absent)) as keepers:
            variables = {SERVERS[name].variable: json.dumps(info) for name, info in keepers.described.items()}
            if command:
                return run_with(variables, command)
            for variable, text in variables.items():
                print(f"{variable}={text}", flush=True)
            return 1 if wait_until_unwanted(keepers.dead) else 0
    except StartError as error:
        print(f"servers: {error}", file=sys.stderr)
        return 1


def understood(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The servers and the command that were named."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        usage="run.py [--only names] [-- command args…]", description="Runs a command beside test servers."
    )
    parser.add_argument("--only", default=",".join(SERVERS), metavar="names", help="some of %(default)s")
    names = [str(name) for name in parser.parse_args(arguments[:end]).only.split(",")]
    if unknown := [name for name in names if name not in SERVERS]:
        parser.error(f"no server is called {', '.join(unknown)}; there are {', '.join(SERVERS)}")
    command = list(arguments[end + 1 :])
    if end < len(arguments) and not command:
        parser.error("no command after `--`")
    return list(dict.fromkeys(names)), command


def run_with(variables: dict[str, str], command: Sequence[str]) -> int:
    """Runs the command with the variables; returns its exit status as a shell would."""
    parent = os.getpid()
    try:
        child = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            preexec_fn=lambda: die_with(parent, signal.SIGTERM),  # noqa: PLW1509 - no thread runs, and there is no other way
        )
    except OSError as error:
        print(f"servers: cannot run `{command[0]}`: {error.strerror}", file=sys.stderr)
        return 127
    try:
        status = child.wait()
    except BaseException:
        child.terminate()
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        raise
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
