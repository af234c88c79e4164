"""10,000 seeded pairs (reference, forecast) in mg/dL of each kind that the error grids are compared on."""

from __future__ import annotations

import hashlib

import numpy as np

NUM_PAIRS = 10_000


def error_grid_pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`paper`: even over the 400 mg/dL of Clarke's paper; `wide`: over 550; `cgm`: as a sensor and an hour ahead."""
    random = np.random.default_rng(8)
    paper = random.uniform(1, 400, NUM_PAIRS), random.uniform(0, 400, NUM_PAIRS)
    wide = random.uniform(1, 550, NUM_PAIRS), random.uniform(0, 550, NUM_PAIRS)
    reference = np.clip(np.exp(random.normal(np.log(150), 0.42, NUM_PAIRS)), 40, 400)
    forecast = np.clip(reference * np.exp(random.normal(0, 0.25, NUM_PAIRS)), 40, 400)
    return {"paper": paper, "wide": wide, "cgm": (reference, forecast)}


def checksum() -> str:
    """SHA-256 of all pairs to 1e-6 mg/dL: another generator would make the stored zones worthless."""
    digest = hashlib.sha256()
    for pair in error_grid_pairs().values():
        digest.update(np.round(np.stack(pair) * 1e6).astype(np.int64).tobytes())
    return digest.hexdigest()
