"""The chest phantom: synthetic radiographs with the truth at every stage.

A film is ``exp(-sum of attenuation x thickness)`` over analytic anatomy, with CheXpert's 14
observations placed in it, each with its exact mask.
"""

from dollkit.phantom.labels import observe_labels
from dollkit.phantom.population import COHORTS, sample_population
from dollkit.phantom.protocol import Protocol
from dollkit.phantom.render import ORGANS, Films, render

__all__ = [
    "COHORTS",
    "ORGANS",
    "Films",
    "Protocol",
    "observe_labels",
    "render",
    "sample_population",
]
