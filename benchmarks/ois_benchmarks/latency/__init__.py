"""Latency: seconds per click, SAT, engines, server overhead, cold start."""
