"""Many trainings: a list of folds × configs × seeds, and who does them, here or on a cluster."""
