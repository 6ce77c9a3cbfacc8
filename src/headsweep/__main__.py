"""``python -m headsweep``."""

from headsweep.cli import main

if __name__ == "__main__":
    main()
