"""``python -m mcn_lightning`` is the command ``lightning``."""

from mcn_lightning.signals import note_early

if __name__ == "__main__":
    note_early()
    from mcn_lightning.cli import main

    main()
