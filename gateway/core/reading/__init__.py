"""What a request is about, found out by reading it: the signals that policies decide by."""
