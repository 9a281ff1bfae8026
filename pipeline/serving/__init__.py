"""Predicts with a bundle: trained models and post-processing in one folder, without a network."""
