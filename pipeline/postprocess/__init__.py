"""Post-processing: the rules from stored probabilities to a mask, and the search of the best rules on OOF predictions.

`threshold_counts` has the thresholds, `rules` applies rules to one image, `component_tree` counts the pixels that
survive each minimum component at every threshold, `search` scores every candidate of the rule sets, and
`rule_variants` adds further rules to the best of them. `instances` and `shape` make instances instead of masks.
"""
