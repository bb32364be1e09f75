"""Clicking in a notebook: `ClickWidget`, and masks as pictures with
`%load_ext ois_client.notebook`. Both need the extra `notebook` (docs/notebooks.md)."""

try:
    from ois_client.notebook.widget import ClickWidget
except ModuleNotFoundError as error:
    raise ImportError(
        f"the notebook widget needs the package {error.name}; install it with: "
        "pip install 'ois-deploy[notebook]'"
    ) from error

from ois_client.notebook.masks import load_ipython_extension, unload_ipython_extension

__all__ = ["ClickWidget", "load_ipython_extension", "unload_ipython_extension"]
