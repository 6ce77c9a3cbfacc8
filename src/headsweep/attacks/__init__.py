"""Attacks: poison data or weights and get a victim. For measuring models that one owns."""
