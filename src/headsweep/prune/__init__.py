"""Which heads go."""
