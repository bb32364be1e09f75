"""Image encoders: pixels -> the feature levels that the heads and the fusion read."""
