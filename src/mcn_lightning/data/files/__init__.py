"""Readers of single files: features, captions, pickles and word vectors."""
