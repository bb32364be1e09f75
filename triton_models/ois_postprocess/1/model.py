"""The model `ois_postprocess`, implemented in `ois_runtime.serving.ensemble_models`."""

from ois_runtime.serving.ensemble_models import PostprocessModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
