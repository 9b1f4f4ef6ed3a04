"""The evidence layer: from per-case rows to tables, figures and a verdict on each claim.

Nothing here trains or explains; every number is an aggregate of rows that an earlier stage
wrote, so that a table can be made again from the committed rows alone.
"""
