"""Checkpoint -> engines: graphs, lint, parity gate, manifest; nothing broken is ever written."""
