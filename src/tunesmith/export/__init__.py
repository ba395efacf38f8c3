"""From a trained model to files that others run, each compared with the model that was trained."""
