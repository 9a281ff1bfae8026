"""Batch inference: predicts any number of images with a bundle, one Parquet partition at a time, locally or on Ray."""
