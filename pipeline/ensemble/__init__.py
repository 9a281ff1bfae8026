"""Ensembles: how the members' stored probabilities are combined, with which weights, and which rules follow.

Source:
    The assumptions of the mean, the logarithmic combinations and the vote: Kittler et al., On combining classifiers,
    1998, https://doi.org/10.1109/34.667881.
"""
