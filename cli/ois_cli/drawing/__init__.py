"""Pictures of results: overlays, depth, order maps, sheets."""
