"""What the module needs to train: the optimizer, the exchange between processes, and checks before the first step."""
