"""Options: dataclasses that check their values, ranges of numbers, and classes named by a path."""
