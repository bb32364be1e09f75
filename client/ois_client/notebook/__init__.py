"""Clicking in a notebook: `ClickWidget`, which needs the extra `notebook` (docs/notebooks.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ois_client.notebook.widget import ClickWidget

__all__ = ["ClickWidget"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from ois_client.notebook.widget import ClickWidget
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the notebook widget needs the package {error.name}; install it with: "
            "pip install 'ois-deploy[notebook]'"
        ) from error
    return ClickWidget
