"""A plugin for napari: click on a picture, get the object in a Labels layer.

`napari.yaml` lists the widget in napari's menu. napari itself is not a requirement of this package:
the plugin appears where both are installed.
"""

__all__: list[str] = []
