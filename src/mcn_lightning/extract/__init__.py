"""From video files to a data set: frames, features, spectrograms, captions and lists."""
