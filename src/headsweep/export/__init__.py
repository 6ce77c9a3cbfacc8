"""What is left behind: the folder, its manifest, and how to check it."""
