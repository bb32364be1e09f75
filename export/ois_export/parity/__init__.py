"""The parity gates: engines whose results differ from the network's are not written."""
