"""Load: many simulated users on one server."""
