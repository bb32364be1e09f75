"""Simulated clicks: the training sampler and the robot user of evaluation."""
