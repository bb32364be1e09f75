"""The parity gate: an exported engine must compute what the network computes."""
