"""Latency, memory and quality, measured side by side in one run and committed as JSON."""
