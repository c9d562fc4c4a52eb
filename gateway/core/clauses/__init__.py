"""What a policy is made of, compiled: one module for each thing that can be written in one, and what these share."""
