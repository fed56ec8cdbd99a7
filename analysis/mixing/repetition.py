"""What a share is worth where its source has too few distinct tokens (Muennighoff et al. 2023).

A source with U distinct tokens gives r D tokens in e = r D / U epochs. They are worth as many fresh
tokens as U (1 + R_D (1 - exp(-(e - 1) / R_D))), 2305.16264 eq. 5. The law reads the worth, as a
share, for r.
"""

import numpy as np

from analysis.forms import Array

R_D = 15.387756  # fitted to 182 runs, 2305.16264 appendix A


def worth(shares: Array, unique: Array, decay: float = R_D) -> tuple[Array, Array]:
    """Return the worth of shares and its slope, elementwise.

    shares: (..., J)
    unique: distinct tokens of each source over the tokens of the run (J,); inf where unlimited
    decay: R_D
    """
    limited = np.isfinite(unique)
    size = np.where(limited, unique, 1.0)
    more = np.maximum(shares / size - 1, 0.0)  # epochs beyond the first
    left = np.exp(-more / decay)
    repeated = limited & (shares > size)
    value = np.where(repeated, size * (1 + decay * (1 - left)), shares)
    return value, np.where(repeated, left, 1.0)
