"""What makes a run one run: its folder, options, checkpoints, record and logs, and how it goes on."""
