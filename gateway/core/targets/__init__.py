"""The targets of a fleet: what they can do, what removes them from a decision, and in which order they are left."""
