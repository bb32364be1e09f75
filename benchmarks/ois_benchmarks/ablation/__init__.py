"""Ablations: what each part of the network contributes."""
