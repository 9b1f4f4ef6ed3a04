"""What reading processes of the tests run: little to import."""

from __future__ import annotations

import hashlib

import numpy as np

from dollkit.data.store import Store


def digests(store: Store, seed: int, batches: int = 20) -> list[str]:
    """SHA-256 of the films and targets of random batches."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(batches):
        rows = rng.integers(0, len(store), 16)
        taken = hashlib.sha256(store.images[rows].tobytes())
        taken.update(store.targets(rows).tobytes())
        out.append(taken.hexdigest())
    return out
