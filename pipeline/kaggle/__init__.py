"""Kaggle's site: its client, metadata, input mounts, and a local rehearsal of its notebooks."""
