"""Training with TRL: one short file a method. torch is imported only inside functions that run."""
