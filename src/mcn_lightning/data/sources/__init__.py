"""Where videos come from: the layout of HowTo100M, pickles of clips, generated videos."""
