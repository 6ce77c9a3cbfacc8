"""The story: gather, measure, prune, heal, check, save."""
