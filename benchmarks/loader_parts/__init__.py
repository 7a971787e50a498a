"""The readers that the benchmark of loading compares with."""
