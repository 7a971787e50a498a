"""Tables for a terminal: aligned columns, and the table of an evaluation on held-out clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mcn_lightning.metrics import Ranking


def format_table(
    metrics: dict[str, float],
    rankings: Mapping[str, Ranking],
    count: int,
    when: str = "",
    dropped: str = "",
    unknown: int = 0,
    left_out: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Format recall and median rank with a row for each direction, and chance in the last row.

    Clips with several captions have more queries or gallery items than clips. Then each row shows both numbers, and
    chance has a row for each distinct pair of them.

    Args:
        metrics: values by ``"<direction>/<metric>"``, and ``nmi``, ``purity`` and ``topics_nmi`` where they are known.
        rankings: ranking of each direction.
        count: N, held-out clips.
        when: text that names the epoch and step; left out if empty.
        dropped: text that counts captions which cannot be used; left out if empty.
        unknown: clips without any known word in their text.
        left_out: directions that are not evaluated, by the modality that is missing.
    """
    names, ks = ("R@1", "R@5", "R@10", "median_rank"), (1, 5, 10)
    title = f"held-out clips: {count}" + (f", {when}" if when else "")
    chances: dict[tuple[float, ...], list[str]] = {}
    body: list[tuple[str, ...]] = []
    for direction, ranking in rankings.items():
        shown = [f"{metrics[f'{direction}/{name}']:.1f}" for name in names]
        body.append((direction, *shown, str(ranking.queries), str(ranking.items)))
        chance = ranking.chance(ks)
        chances.setdefault(tuple(chance[name] for name in names), []).append(direction)
    for values, directions in chances.items():
        label = "chance" if len(chances) == 1 else f"chance {', '.join(directions)}"
        body.append((label, *(f"{value:.1f}" for value in values), "", ""))
    rows = [(title, *names[:3], "median rank", "queries", "items"), *body]
    if all(ranking.queries == ranking.items == count for ranking in rankings.values()):
        rows = [row[:5] for row in rows]
    # chance has empty cells at its end
    lines = [line.rstrip() for line in aligned(rows)]
    extra = [f"{name}: {metrics[name]:.3f}" for name in ("nmi", "purity", "topics_nmi") if name in metrics]
    if dropped:
        extra.append(f"left out: {dropped}")
    if unknown:
        extra.append(f"clips without any known word in their text: {unknown}, which are in the table all the same")
    extra += [f"left out, as there is no {name}: {', '.join(each)}" for name, each in (left_out or {}).items()]
    return "\n".join([*lines, *extra])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each row. The first column is left-aligned, the others right-aligned, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        row[0].ljust(widths[0])
        + "".join(cell.rjust(width + 2) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
