"""Whether a policy does what its author means: its tests, what they reach, and what they would not notice."""
