"""`pointsman top`: what a running gateway does now, read from its admin listener and shown as a table."""
