"""Decisions that were made: explained, reasoned backwards, and remembered."""
