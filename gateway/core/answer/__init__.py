"""What an upstream answers, whole or as a stream of events, and what of it a client may see."""
