"""The command ``app``: the web page of an index."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from mcn_lightning.app.options import AppConfig
from mcn_lightning.commands.parsers import CommandParser
from mcn_lightning.errors import InputError

PACKAGES = ("starlette", "uvicorn", "anyio", "av")


def run_app(args: Sequence[str]) -> None:
    """Parse the options and serve the page until Ctrl-C, or write what ``--export`` asks for.

    Args:
        args: arguments after the command's name.

    Raises:
        InputError: if an option is wrong, a package is missing, the index cannot be opened, or the port is in use.
    """
    parser = CommandParser(prog="lightning app", description="Show an index in the browser.")
    parser.add_argument("index", metavar="INDEX", help="folder that lightning index made")
    parser.add_class_arguments(AppConfig, skip={"index"})
    config = AppConfig(**vars(parser.instantiate(parser.parse_args(args))))
    if config.export is not None:
        from mcn_lightning.app.export import export_map

        print(export_map(config))
        return
    # all at once: pip then needs one call
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"lightning app: expected the packages {', '.join(PACKAGES)}, found no {' and '.join(missing)}; "
            "pip install 'mcn-lightning[app]'"
        )
    from mcn_lightning.app.server import serve

    serve(config)
