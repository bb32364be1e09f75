"""The HTTP gateway between the page and the engines."""
