"""Simulated clicks: the sampler of training and the robot user of evaluation."""
