"""Figures of matplotlib without a display, and their files."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcn_lightning.errors import InputError, need_package
from mcn_lightning.files import replacing, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
ENDINGS = {".png": None, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
"""Forms of figures, each with what keeps the date out of the file."""
COLOURS = 20
"""Groups that have a colour of their own, in matplotlib's cycle "tab20"; all others are grey."""
GREY = "0.75"


def new_figure(option: str, **options: Any) -> Figure:
    """Return an empty figure. It opens no window, and nobody else keeps it.

    Args:
        option: that asks for it, for the message.
        **options: of matplotlib's ``Figure``.

    Raises:
        InputError: if matplotlib is not installed.
    """
    need_package("matplotlib", option, "pip install 'mcn-lightning[plots]'")
    from matplotlib.figure import Figure  # without pyplot, which may open windows and keeps figures in memory

    return Figure(**options)


def check_ending(path: Path, option: str = "--output") -> None:
    """Refuse a file whose ending names no form of figures.

    Raises:
        InputError: naming the endings.
    """
    if path.suffix not in ENDINGS:
        raise InputError(f"{option} {path}: expected a name ending in {' or '.join(ENDINGS)}")


def save_figure(figure: Figure, path: Path, option: str = "--output") -> None:
    """Write a figure, whole or not at all. The same figure gives the same bytes.

    Args:
        figure: of any function of this package.
        path: ending in .png, .svg or .pdf.
        option: its name in messages.

    Raises:
        InputError: if the ending is unknown, or the file cannot be written.
    """
    check_ending(path, option)
    form = path.suffix.removeprefix(".")
    import matplotlib as mpl

    # the salt: names within an SVG would else be random
    with writing(f"{option} {path}"), replacing(path) as partial, mpl.rc_context({"svg.hashsalt": "mcn"}):
        figure.savefig(partial, format=form, dpi=DPI, metadata=ENDINGS[path.suffix])


def shorten(text: str | None, letters: int) -> str:
    """Return the beginning of a text, in one line that matplotlib takes literally.

    Args:
        text: of a clip; none gives an empty one.
        letters: at most.
    """
    line = textwrap.shorten(" ".join((text or "").split()), letters, placeholder="...")
    return line.replace("$", r"\$")  # no formula
