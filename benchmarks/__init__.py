"""Benchmarks, as rates on this machine and ratios within one run: ``python -m benchmarks``.

Nothing here is asserted by a test: times belong to a machine. What is compared is measured in
turns, round by round, so that whatever else the machine does falls on both alike.
"""
