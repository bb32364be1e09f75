"""Triton's way in to `ois_preprocess`; what it does is in `ois_runtime.serving.ensemble_models`."""

from ois_runtime.serving.ensemble_models import PreprocessModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
