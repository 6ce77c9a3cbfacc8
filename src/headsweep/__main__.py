"""``python -m headsweep``, and what the command ``headsweep`` enters.

The command line is read inside, so that Ctrl-C while it still is ends in one line, too.
"""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from headsweep.cli import main as run

        run()
    except KeyboardInterrupt:
        print("headsweep: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
