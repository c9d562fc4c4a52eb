"""`pointsman demo`: the gateway in front of a real, small model, with nothing to configure."""
