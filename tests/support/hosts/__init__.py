"""Programs that our integrations run in, and stand-ins for them."""
