"""Explanations of classifiers: Integrated Gradients at the speed of the machine, and others."""
