"""Clicking in a notebook: `ClickWidget`, which needs the extra `notebook` (docs/notebooks.md)."""

try:
    from ois_client.notebook.widget import ClickWidget
except ModuleNotFoundError as error:
    raise ImportError(
        f"the notebook widget needs the package {error.name}; install it with: "
        "pip install 'ois-deploy[notebook]'"
    ) from error

__all__ = ["ClickWidget"]
