"""Look at any finished run film by film: maps, labels, truth, predictions, under moving thresholds.

`sets` finds the films of a run or of a label set, `maps` explains a bounded number of them once and
keeps the maps on disk, `view` makes from them what is shown (the label steps alone, no network),
`draw` draws it, `saving` writes what was found, `widgets` puts ipywidgets around it; none of the
others needs a browser or a widget. ``python -m dollkit.interactive.explorer`` prepares maps and
measures how long a change takes. No stage imports any of this, so no stage depends on it.
"""
