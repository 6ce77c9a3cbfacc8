"""What a suspect is for, and how it learns."""
