"""The command ``plot``: pictures of an index for papers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mcn_lightning.commands.parsers import CommandParser
from mcn_lightning.errors import InputError
from mcn_lightning.files import writing
from mcn_lightning.plots.figures import new_figure, save_figure
from mcn_lightning.plots.options import PlotConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mcn_lightning.search.index import Index

METHODS = {"umap": "UMAP", "tsne": "t-SNE", "pca": "principal components"}
"""What the output calls a method of the map."""


def run_plot(args: Sequence[str]) -> None:
    """Parse the options, and write the plots.

    Args:
        args: arguments after the command's name.

    Raises:
        InputError: if the index or an option is wrong, a package is missing, or the index does not allow a plot that
            ``--kinds`` names.
    """
    parser = CommandParser(prog="lightning plot", description="Plot an index: map, clusters, recall, one video.")
    parser.add_argument("index", metavar="INDEX", help="folder that lightning index made")
    parser.add_class_arguments(PlotConfig)
    given = vars(parser.parse_args(args))
    folder = given.pop("index")
    config = PlotConfig(**given)
    new_figure("lightning plot")  # matplotlib is there, before anything is computed
    from mcn_lightning.search.explore.points import check_method
    from mcn_lightning.search.index import Index

    if "map" in config.chosen and config.method is not None:
        check_method(config.method)
    index = Index.open(folder, media_root=config.media_root)
    output = Path(config.output)
    with writing(f"--output {output}", "give another folder"):
        output.mkdir(parents=True, exist_ok=True)
    done = 0
    for kind in config.chosen:
        path = output / f"{kind}.{config.format}"
        try:
            figure = PLOTS[kind](index, config)
        except InputError as error:
            if config.kinds is not None:
                raise
            print(f"note: no {kind}: {error}", file=sys.stderr)  # not asked for by name
            continue
        save_figure(figure, path)
        done += 1
        label = str(figure.get_label() or "")
        print(f"{path} ({label})" if label else str(path))
    if not done:
        raise InputError(f"{folder}: expected an index that can be plotted, found none of the plots possible")


def _map(index: Index, config: PlotConfig) -> Figure:
    from mcn_lightning.plots.map import map_method, map_points, plot_map
    from mcn_lightning.search.explore.points import map_file, write_points

    asked = config.modality or index.default_gallery
    method = config.method or map_method(index, asked)
    points = map_points(index, asked, method, config.seed)
    if config.store:
        write_points(map_file(index.folder, asked), points)
    figure = plot_map(index, asked, column=config.column, named=config.clusters, points=points)
    figure.set_label(METHODS[method])
    return figure


def _montage(index: Index, config: PlotConfig) -> Figure:
    from mcn_lightning.plots.montage import plot_montage

    return plot_montage(index, config.clusters, config.clips)


def _recall(index: Index, config: PlotConfig) -> Figure:
    from mcn_lightning.plots.recall import plot_recall

    return plot_recall(index, config.modality, config.clusters)


def _video(index: Index, config: PlotConfig) -> Figure:
    from mcn_lightning.plots.video import plot_video

    return plot_video(index, config.video or index.clips.longest_video(), config.modality)


PLOTS: dict[str, Callable[[Index, PlotConfig], Figure]] = {
    "map": _map,
    "montage": _montage,
    "recall": _recall,
    "video": _video,
}
