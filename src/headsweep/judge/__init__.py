"""How good a model is, and whether something is in it."""
