"""What pruning left."""
