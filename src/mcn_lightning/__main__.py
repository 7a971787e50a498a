"""Entry point of ``lightning``, ``mcn-lightning`` and ``python -m mcn_lightning``."""

from mcn_lightning.signals import exit_on_interrupt, survive_job_signals


def main() -> None:
    """Run the command with the arguments of the process."""
    with exit_on_interrupt(), survive_job_signals():
        # imported here: a signal during the seconds that this import takes is handled already
        from mcn_lightning.commands.main import main as run

        run()


if __name__ == "__main__":
    main()
