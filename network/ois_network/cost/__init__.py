"""Counts of parameters, FLOPs and bytes."""
