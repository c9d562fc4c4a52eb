"""What is written down or logged of requests, never a prompt or a secret, and deciding them again from it."""
