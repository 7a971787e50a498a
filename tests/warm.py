"""What the server of forks does before it forks: it imports what they need and builds the parsers of the commands."""

from __future__ import annotations

import gc
import os
from contextlib import suppress

gc.disable()  # imports leave no garbage
try:
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401

    from mcn_lightning.commands.fit import MCNCLI, build
    from mcn_lightning.errors import InputError

    for command in ("fit", "validate", "test", "predict"):
        with suppress(InputError):
            build(MCNCLI, [command, "--no_such_option"])
    # after Lightning, as in a command: else Python takes Lightning's Union[int, float] for Union[float, int]
    import sklearn.metrics  # noqa: F401

    with suppress(ImportError):
        import faiss  # noqa: F401
finally:
    gc.freeze()
    gc.enable()
own, _, given = os.environ.pop("PYTHONPATH", "").partition(os.pathsep)
if given:
    os.environ["PYTHONPATH"] = given
