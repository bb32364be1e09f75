"""`ois bench soak`: hours of sessions on one server that is restarted now and then."""
