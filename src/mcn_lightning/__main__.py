"""``lightning``, ``mcn-lightning`` and ``python -m mcn_lightning`` are one command, which begins here."""

from mcn_lightning.signals import job_survives, one_line_for_ctrl_c


def main() -> None:
    """Run the command with the words of the process."""
    with one_line_for_ctrl_c(), job_survives():
        from mcn_lightning.commands.main import main as run

        run()


if __name__ == "__main__":
    main()
