"""Everything that can be measured: OIS in every engine, and the peers."""
