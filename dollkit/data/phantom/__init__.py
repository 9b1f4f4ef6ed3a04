"""The chest phantom: synthetic radiographs with the truth at every stage.

A film is ``exp(-sum of attenuation x thickness)`` over analytic anatomy, with CheXpert's 14
observations placed in it, each with its exact mask.
"""

from dollkit.data.phantom.population import COHORTS, Protocol, observe_labels, sample_population
from dollkit.data.phantom.render import ORGANS, Films, render

__all__ = [
    "COHORTS",
    "ORGANS",
    "Films",
    "Protocol",
    "observe_labels",
    "render",
    "sample_population",
]
