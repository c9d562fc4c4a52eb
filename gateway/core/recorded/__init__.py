"""What is written down of requests, never a prompt, and deciding them again from it."""
