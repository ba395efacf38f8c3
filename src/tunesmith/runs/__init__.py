"""The run folder: the one place a run leaves its facts, and every later stage reads them from."""
