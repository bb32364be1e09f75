"""The picture that a health check clicks on: the cheapest one that the engines take.

Graphs take any shape. TensorRT's engines take those they were built for, which their manifest
names (`ois_export/tensorrt/profiles.py` gives the names their meaning); a click outside them fails
on a server that is as well as can be.
"""

from __future__ import annotations

from ois_runtime.engines.manifest import Manifest

#: Patches on the short side from which on the ranges of these names begin.
_SMALLEST_SIDE = 3


def probe_size(manifest: Manifest) -> tuple[int, int]:
    """(width, height) of the picture. A patch a pixel, so that it travels in a few bytes."""
    longest = manifest.longest // manifest.patch
    names = manifest.options.get("profiles", {}).get("encoder", ())
    sizes = [_smallest(str(name), longest, manifest.patch) for name in names]
    return min(sizes, key=lambda size: size[0] * size[1], default=(longest, 1))


def _smallest(name: str, longest: int, patch: int) -> tuple[int, int]:
    """(columns, rows) of a profile's smallest patch grid."""
    short = min(_SMALLEST_SIDE, longest)
    ranges = {"landscape": (longest, short), "portrait": (short, longest)}
    width, _, height = name.partition("x")
    if width.isdecimal() and height.isdecimal():
        return int(width) // patch, int(height) // patch
    return ranges.get(name, (longest, longest))  # a square is both lying and standing
