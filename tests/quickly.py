"""Reading torch and transformers takes a quarter less where nobody looks for garbage meanwhile."""

from headsweep.quick import starting

starting()
