"""The model `ois_segment`, implemented in `ois_runtime.serving.segment_model`."""

from ois_runtime.serving.segment_model import SegmentModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
