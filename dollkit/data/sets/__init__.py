"""Readers of data sets, each in the layout that its authors released."""
