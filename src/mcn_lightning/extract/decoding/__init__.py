"""Parts of decoding: the clock of a file, its pictures and its sound."""
