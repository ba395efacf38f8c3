"""From facts about model, data and machine to the settings of the run."""
