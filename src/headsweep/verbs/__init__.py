"""The verbs of the command line, for Python."""
