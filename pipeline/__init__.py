"""From Kaggle's files to a valid submission.csv: folds, two-phase training, OOF, ensembling, RLE."""

__version__ = "0.1.0"
