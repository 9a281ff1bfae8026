"""Drafts a competition card from the files of a competition: what they show, why, and what is not certain."""
