"""From a dataset, wherever it lies, to token ids with the tokens that carry loss marked."""
