"""The suspect: lent for a while, and put back."""
