"""The compiled part: C without any Python in it, and the module that loads and calls it."""
