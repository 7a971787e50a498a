"""``lightning``, ``mcn-lightning`` and ``python -m mcn_lightning`` are one command, which begins here."""

from mcn_lightning.signals import job_survives


def main() -> None:
    """Run the command with the words of the process."""
    with job_survives():
        from mcn_lightning.commands import main as run

        run()


if __name__ == "__main__":
    main()
