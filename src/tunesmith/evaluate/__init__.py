"""What a model answers, before and after."""
