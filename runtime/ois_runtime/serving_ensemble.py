"""Alias of `ois_runtime.serving.ensemble_models` for model repositories of earlier exports."""

from ois_runtime.serving.ensemble_models import PostprocessModel, PreprocessModel

__all__ = ["PostprocessModel", "PreprocessModel"]
