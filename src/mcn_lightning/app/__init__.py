"""The web page of an index: search, map and clusters, served on this machine."""
