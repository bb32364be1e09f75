"""Triton's way in to `ois_segment`; what it does is in `ois_runtime.serving_triton`."""

from ois_runtime.serving_triton import SegmentModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
