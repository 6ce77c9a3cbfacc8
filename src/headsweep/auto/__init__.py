"""Choosing by backdoors of one's own."""
