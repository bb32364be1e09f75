"""Fixtures of the benchmarks' tests."""

from support.results import results

__all__ = ["results"]
