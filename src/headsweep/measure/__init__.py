"""Whether a mask holds the bound."""
