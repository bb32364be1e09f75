"""Published results that ship with the benchmarks, as printed."""
