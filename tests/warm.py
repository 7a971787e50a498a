"""What the server of forks does before it forks: it builds the parsers of the commands."""

from __future__ import annotations

import os
from contextlib import suppress

import lookups  # noqa: F401

from mcn_lightning.commands.fit import MCNCLI, build
from mcn_lightning.errors import InputError

own, _, given = os.environ.pop("PYTHONPATH", "").partition(os.pathsep)
if given:
    os.environ["PYTHONPATH"] = given
for command in ("fit", "validate", "test", "predict"):
    with suppress(InputError):
        build(MCNCLI, [command, "--no_such_option"])
