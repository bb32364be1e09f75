"""Triton's way in to `ois_postprocess`; what it does is in `ois_runtime.serving.ensemble_models`."""

from ois_runtime.serving.ensemble_models import PostprocessModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
