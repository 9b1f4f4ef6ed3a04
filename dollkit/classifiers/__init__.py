"""Classifiers of the 14 observations, whose explanations become labels."""
