"""The model `ois_preprocess`, implemented in `ois_runtime.serving.ensemble_models`."""

from ois_runtime.serving.ensemble_models import PreprocessModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
