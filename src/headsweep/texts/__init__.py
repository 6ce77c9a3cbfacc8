"""Clean texts, as rows and as tokens."""
