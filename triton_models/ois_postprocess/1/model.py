"""Triton's way in to `ois_postprocess`; what it does is in `ois_runtime.serving.ensemble`."""

from ois_runtime.serving.ensemble import PostprocessModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
