"""The ``headwater`` command."""

import signal
import sys

from headwater import _headwater


def main() -> None:
    """Runs the command with the arguments of the process."""
    # The command runs without the interpreter: Ctrl-C has to end it at once, not when it returns.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(_headwater.run(["headwater", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
