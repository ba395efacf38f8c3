"""Reward functions: a library of tested ones by name, and a user's own by file or module."""
