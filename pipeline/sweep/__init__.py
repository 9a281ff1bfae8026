"""Trains folds × configs × seeds, in subprocesses of this machine or on a Ray cluster."""
