"""The benchmark harness: a grid of cells, one JSON file each, resumable, on any engine."""
