"""Radiographs of one's own: from a folder of films to masks on them, and whether DoLL paid.

A guided path over the functions behind the stages (notebook 11), and what they do not do: check
a stranger's folder first, predict on each film's own grid, and judge the comparison in words.
"""
