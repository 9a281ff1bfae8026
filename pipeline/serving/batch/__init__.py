"""Prediction of images by the million: partition by partition, here or on a cluster, resumed by what is missing."""
