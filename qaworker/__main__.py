"""``python -m qaworker`` and the ``qaworker`` command."""

from __future__ import annotations

import sys

from qaworker.cli import main as cli


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
