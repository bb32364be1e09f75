"""Bootstrap intervals over images: the objects of one image are drawn together.

Objects of one photograph are easy or hard together. A bootstrap that draws them one by one, as if
they were independent, gives intervals that are too narrow. With one object per image it is the
usual bootstrap over objects.

Every statistic is a ratio of two sums over objects: a mean has 1 per object below, a share of
clicks has the object's clicks below.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ois_benchmarks.statistics import Estimate, interval
from ois_client.contract.errors import InvalidInput

RESAMPLES = 2000

Values = NDArray[np.float64]
#: Two arrays (N, M): of N objects what is added above and below in each of M ratios.
Ratios = tuple[Values, Values]


def bootstrap_means(values: Values, images: Sequence[str] | None = None) -> list[Estimate]:
    """The mean of each column of `values`, (N, M), with its interval. Deterministic.

    images: the image of each row, or None if every row has its own.
    """
    found = bootstrap_ratios((values, np.ones_like(values)), images)
    return [estimate for estimate in found if estimate is not None]


def bootstrap_ratios(
    ratios: Ratios, images: Sequence[str] | None = None, less: Ratios | None = None
) -> list[Estimate | None]:
    """Each ratio with its interval; None where nothing is below. Deterministic.

    less: ratios of another run on the same objects, which are subtracted. Both are computed from
    the same draws, so that what makes an object hard for both runs cancels out. Raises
    `InvalidInput` if the shapes differ.
    """
    if less is not None and less[0].shape != ratios[0].shape:
        raise InvalidInput(
            f"got values of the shapes {ratios[0].shape} and {less[0].shape}; a paired comparison "
            "needs the same objects and clicks in both"
        )
    runs = [[_per_image(values, images) for values in run] for run in (ratios, less) if run]
    count = len(runs[0][0])
    generator = np.random.default_rng(0)
    draws = np.empty((RESAMPLES, ratios[0].shape[1]))
    for row in draws:
        drawn = np.bincount(generator.integers(count, size=count), minlength=count)
        row[:] = _difference(runs, drawn)
    values = _difference(runs, np.ones(count, dtype=np.intp))
    return [
        _estimate(value, column[~np.isnan(column)])
        for value, column in zip(values, draws.T, strict=True)
    ]


def _difference(runs: list[list[Values]], drawn: NDArray[np.intp]) -> Values:
    """(M,): the ratio, or the difference of two. NaN where nothing is below."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found = [(drawn @ above) / (drawn @ below) for above, below in runs]
    return found[0] - found[1] if len(found) > 1 else found[0]


def _estimate(value: float, draws: Values) -> Estimate | None:
    if np.isnan(value):
        return None
    low, high = interval(draws)
    return Estimate(float(value), float(low), float(high))


def _per_image(values: Values, images: Sequence[str] | None) -> Values:
    """Sums over the objects of each image, in the order in which images first occur."""
    if images is None:
        return values
    place = {image: number for number, image in enumerate(dict.fromkeys(images))}
    sums = np.zeros((len(place), values.shape[1]))
    np.add.at(sums, [place[image] for image in images], values)
    return sums
