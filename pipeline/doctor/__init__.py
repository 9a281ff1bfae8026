"""The doctor: what of a competition's files, or of our reading of them, would spoil a submission."""
