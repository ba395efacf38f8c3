"""Tunesmith: from a dataset to a model you can run, without wasting a GPU-hour."""

__version__ = "0.1.0"
