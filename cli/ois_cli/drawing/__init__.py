"""Pictures of results: overlays, depth, order maps and sheets."""
