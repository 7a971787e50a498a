"""An index of the clips of a data set: embeddings on disk, a table with full text, and search among them."""
