"""``python -m qaworker`` and the ``qaworker`` command."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        from qaworker.cli import main as cli

        sys.exit(cli.main())
    except KeyboardInterrupt:  # while its modules were read, or after it ended
        print("qaworker: interrupted", file=sys.stderr)  # noqa: T201, for a person
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
