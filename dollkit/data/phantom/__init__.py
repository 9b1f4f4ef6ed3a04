"""The chest phantom: synthetic radiographs with the truth at every stage.

A film is ``exp(-sum of attenuation x thickness)`` over analytic anatomy, with CheXpert's 14
observations placed in it, each with its exact mask.
"""

from dollkit.data.phantom.population import Protocol, sample_population
from dollkit.data.phantom.render import ORGANS, render

__all__ = ["ORGANS", "Protocol", "render", "sample_population"]
