"""Publish: what may leave this machine, and the search that it passes before it does."""
