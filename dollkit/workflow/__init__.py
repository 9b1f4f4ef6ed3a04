"""Stages, their parameters, and how they are run; no stage imports this room, notebooks do."""
