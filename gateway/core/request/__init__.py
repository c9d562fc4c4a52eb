"""A request as it comes: its bytes, what its headers and members ask of the gateway, and who sent it."""
