"""Results: written, packed, read."""
