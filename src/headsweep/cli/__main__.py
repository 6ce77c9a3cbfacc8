"""``python -m headsweep.cli``."""

import headsweep.cli as commands

commands.main()
