"""Looks at a data set before a run: durations, units, words, and what ``lightning check`` prints."""
