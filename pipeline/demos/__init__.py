"""Generated competitions, one per module, in the layout of a Kaggle competition, for tests and first steps."""
