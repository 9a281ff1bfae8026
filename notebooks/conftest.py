"""Which notebooks run here as they are; those for Kaggle's machine run on one like it, in tests/test_rehearsal.py."""

collect_ignore = ["3-train-on-kaggle.ipynb", "5-submit-offline.ipynb"]
