"""Options of ``lightning plot``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mcn_lightning.errors import InputError
from mcn_lightning.options.config import Options
from mcn_lightning.options.ranges import NonNegativeInt, PositiveInt
from mcn_lightning.search.options import modalities_of

KINDS = ("map", "montage", "recall", "video")


@dataclass(frozen=True)
class PlotConfig(Options, option="plot"):
    """What is plotted, and how.

    Args:
        output: folder of the plots.
        kinds: plots, with commas: map, montage, recall and video. By default all that the index allows.
        modality: letters of the modalities that are plotted; by default those that a search compares.
        method: how the map is made: UMAP, t-SNE (openTSNE) or principal components. By default UMAP, where it is
            installed and there are 200,000 clips at most.
        seed: of UMAP and t-SNE.
        store: keep the map in the index, where the page of ``lightning app`` shows it.
        column: what colours the map.
        clusters: clusters that are named on the map, and shown in the montage and the recall.
        clips: clips of a cluster in the montage.
        video: of the similarity matrix; by default the one with the most captions.
        format: of the files.
        media_root: folder of the videos, if they have moved since the index was made.
    """

    output: str
    kinds: str | None = None
    modality: str | None = None
    method: Literal["umap", "tsne", "pca"] | None = None
    seed: NonNegativeInt = 0
    store: bool = True
    column: Literal["cluster", "topic", "video"] = "cluster"
    clusters: PositiveInt = 20
    clips: PositiveInt = 4
    video: str | None = None
    format: Literal["png", "svg", "pdf"] = "png"
    media_root: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if wrong := [name for name in self.chosen if name not in KINDS]:
            raise InputError(f"--kinds: expected some of {', '.join(KINDS)}, found {wrong[0] or 'none'}")
        if self.modality is not None:
            modalities_of(self.modality, "--modality")

    @property
    def chosen(self) -> list[str]:
        """The plots, each once."""
        if self.kinds is None:
            return [*KINDS]
        return list(dict.fromkeys(name.strip() for name in self.kinds.strip("[]").split(",")))
