"""How thin an object is: the paper's failures (Figure 14) are thin things and what is behind them.

A mask of area A, whose pixels lie m pixels from its outline in the mean, is compared with a disk
of that area. In a disk the mean is a third of the radius, so thinness = sqrt(A / pi) / (3 m). It
is 1 for a disk and 1.13 for a square, and grows with the square root of a strip's length over its
width. Holes and gaps count too: an object behind a fence is thin.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

#: Objects by thinness: name, from, to.
THINNESSES = (
    ("compact, below 1.5", 0.0, 1.5),
    ("1.5 to 2.5", 1.5, 2.5),
    ("thin, above 2.5", 2.5, math.inf),
)


def thinness(mask: NDArray[np.bool_]) -> float:
    """The thinness of (H, W) bool, 1 = object, with at least one pixel.

    The border of the image counts as an outline.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    distances = ndimage.distance_transform_edt(np.pad(box, 1))[1:-1, 1:-1][box]
    # From the pixel's centre to the outline, which is half a pixel before the next centre.
    mean = float(distances.mean()) - 0.5
    return math.sqrt(distances.size / math.pi) / (3 * mean)
