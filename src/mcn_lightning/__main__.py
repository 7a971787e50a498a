"""``python -m mcn_lightning`` is the command ``lightning``."""

from mcn_lightning.signals import job_survives

if __name__ == "__main__":
    with job_survives():
        from mcn_lightning.cli import main  # seconds

        main()
