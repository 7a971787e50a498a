"""``python -m mcn_lightning`` is the command ``lightning``."""

import signal
import sys

from mcn_lightning.signals import job_survives

if __name__ == "__main__":
    with job_survives():
        from pytorch_lightning.utilities.exceptions import SIGTERMException

        from mcn_lightning.cli import main  # seconds

        try:
            main()
        except SIGTERMException:  # where Resume does not listen; Lightning would end with status 0
            sys.exit(128 + signal.SIGTERM)
