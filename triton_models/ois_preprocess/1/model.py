"""Triton's way in to `ois_preprocess`; what it does is in `ois_runtime.serving_ensemble`."""

from ois_runtime.serving_ensemble import PreprocessModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
