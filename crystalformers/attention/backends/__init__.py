"""The implementations of infinitely connected attention: one function, one signature, the same numbers."""
