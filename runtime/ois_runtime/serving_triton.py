"""Alias of `ois_runtime.serving.segment_model` for model repositories of earlier exports."""

from ois_runtime.serving.segment_model import SegmentModel

__all__ = ["SegmentModel"]
