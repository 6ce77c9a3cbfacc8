"""The report: one file that opens offline. Reads results only, never a model."""
