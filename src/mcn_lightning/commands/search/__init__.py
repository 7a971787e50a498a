"""The commands that make an index and search it."""
