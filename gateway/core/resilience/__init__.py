"""What is remembered of targets between requests, and what follows: who is held back, who is next, what is given up."""
