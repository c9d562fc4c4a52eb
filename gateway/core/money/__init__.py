"""What requests consume and cost, and what a key, a team or a target may use."""
