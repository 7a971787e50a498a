"""The command ``app``: the web page of an index."""

from __future__ import annotations

from collections.abc import Sequence

from mcn_lightning.app.options import AppConfig
from mcn_lightning.commands.parsers import CommandParser
from mcn_lightning.errors import need_package

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
    for name in PACKAGES:
        need_package(name, "lightning app", "pip install 'mcn-lightning[app]'")
    from mcn_lightning.app.server import serve

    serve(config)
