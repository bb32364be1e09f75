"""Mask formats of annotation tools: Label Studio brushes, CVAT masks, polygons."""
