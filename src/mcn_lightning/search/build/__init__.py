"""Making of an index: embedding, and the files that hold it."""
