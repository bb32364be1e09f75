"""Triton's way in to `ois_segment`; what it does is in `ois_runtime.serving.segment_model`."""

from ois_runtime.serving.segment_model import SegmentModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
