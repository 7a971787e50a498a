"""``python -m mcn_lightning`` is the command ``lightning``."""

from mcn_lightning.cli import main

if __name__ == "__main__":
    main()
