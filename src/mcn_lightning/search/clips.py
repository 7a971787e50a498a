"""The table of clips: sqlite with a full-text index, written once and opened for reading only."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mcn_lightning.errors import InputError, one_line
from mcn_lightning.files import read_through, reading, replacing

COLUMNS = {
    "row": "INTEGER PRIMARY KEY", "id": "TEXT NOT NULL UNIQUE", "video": "TEXT NOT NULL", "split": "TEXT",
    "kind": "TEXT NOT NULL", "start": "REAL", "end": "REAL", "text": "TEXT", "cluster": "INTEGER", "topic": "INTEGER",
    "media": "TEXT", "has_video": "INTEGER NOT NULL", "has_audio": "INTEGER NOT NULL", "has_text": "INTEGER NOT NULL",
}  # fmt: skip
"""Columns of every index. ``row`` is the row of the vectors; times are in seconds."""
INDEXED = ("video", "cluster", "topic", "start", "end")
"""Columns with an index, as the user's own have: a comparison (not by ``like``) need not read the whole table."""
SECONDS = 10.0
"""Time that a condition of the user may take, each time that the table is asked."""
COMMON = 10_000
"""Clips that are compared by full text. Words of a query that more clips have do not count, unless all are such."""
KEPT = 16  # conditions whose rows are kept
TESTED = 500  # rows that a condition is tested on at a time
TESTABLE = 5_000
"""Rows that a condition is tested on one by one. Of more rows, only while the first ones promise enough."""
STEPS = 10_000  # instructions of sqlite between two looks at the clock
_NAME = re.compile(r"[A-Za-z_]\w*")
_READS = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION)
_FUNCTIONS = frozenset(
    "abs avg coalesce count date datetime glob ifnull iif instr julianday length like lower ltrim max min nullif round "
    "rtrim sign strftime substr substring sum time total trim typeof unicode upper".split()
)
"""Functions of a condition: they read nothing else, and make no large values."""

Row = dict[str, Any]


def write_clips(path: Path, clips: Iterable[Row], own: Mapping[str, str]) -> None:
    """Write the table of clips, whole or not at all.

    Args:
        path: of the table.
        clips: rows by column, in the order of the vectors.
        own: names and SQL types of the user's columns.

    Raises:
        InputError: if two clips have one id.
    """
    names = [*COLUMNS, *own]
    with replacing(path) as partial:
        # sqlite makes the file itself
        partial.unlink()
        with closing(sqlite3.connect(partial, isolation_level=None)) as table:
            # no journal: a table that is not finished is never renamed
            table.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
            kinds = ", ".join(f"{_quoted(name)} {kind}" for name, kind in {**COLUMNS, **own}.items())
            table.execute(f"CREATE TABLE clips ({kinds})")
            table.execute("BEGIN")
            try:
                table.executemany(_insert(names), ([clip.get(name) for name in names] for clip in clips))
            except sqlite3.IntegrityError as error:
                raise InputError(
                    f"{path}: expected each clip once, found one twice ({error}); name videos once"
                ) from None
            for name in (*INDEXED, *own):
                table.execute(f"CREATE INDEX {_quoted(f'by_{name}')} ON clips ({_quoted(name)})")
            table.execute(
                # words without a copy of the texts; porter finds "cooking" by "cook"
                "CREATE VIRTUAL TABLE words USING fts5(text, content='clips', content_rowid='row', "
                "tokenize='porter unicode61')"
            )
            table.execute("INSERT INTO words (words) VALUES ('rebuild')")
            table.execute("COMMIT")


def _insert(names: Sequence[str]) -> str:
    return f"INSERT INTO clips ({', '.join(map(_quoted, names))}) VALUES ({', '.join('?' * len(names))})"


def _quoted(name: str) -> str:
    """Return a column's name for a statement; sqlite takes any other character than the quote."""
    return '"' + name.replace('"', '""') + '"'


def check_column(name: str, where: str) -> None:
    """Refuse a name of a column that a condition could not use, or that the table has.

    Raises:
        InputError: naming it.
    """
    if not _NAME.fullmatch(name) or name.lower() in COLUMNS:
        found = f"{name!r}" + (", which every index has" if name.lower() in COLUMNS else "")
        raise InputError(f"{where}: expected names of columns in letters, digits and _, found {found}; rename it")


class Clips:
    """The table of clips of an index, opened for reading.

    Args:
        path: of the table.

    Raises:
        InputError: if it is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: dict[str, np.ndarray] = {}
        if not path.is_file():
            raise InputError(f"{path}: expected the table of clips, found no file; make the index again")
        # an app serves requests from several threads, one at a time
        self._table = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        with self._reading():
            self._table.execute("PRAGMA query_only = ON")
            self.columns = [row[1] for row in self._table.execute("PRAGMA table_info(clips)")]
            self.count = int(self._table.execute("SELECT coalesce(max(row) + 1, 0) FROM clips").fetchone()[0])
        if not {*COLUMNS} <= {*self.columns}:
            raise InputError(f"{path}: expected the table of clips, found another; make the index again")

    def close(self) -> None:
        """Close the table."""
        self._table.close()

    def warm_up(self) -> None:
        """Read the file once, so that no search waits for the disk."""
        read_through(self.path)

    def _reading(self) -> AbstractContextManager[None]:
        return reading(self.path, "the table of clips", sqlite3.DatabaseError, advice="make the index again")

    def all(self) -> Iterator[Row]:
        """Return all clips, in the order of the vectors."""
        with self._reading():
            for row in self._table.execute("SELECT * FROM clips ORDER BY row"):
                yield dict(zip(self.columns, row, strict=True))

    def take(self, rows: Sequence[int]) -> list[Row]:
        """Return clips by their rows, in the order that is asked for.

        Args:
            rows: of the vectors.
        """
        found: dict[int, Row] = {}
        with self._reading():
            # older sqlite allows 999 parameters in a statement
            for first in range(0, len(rows), 500):
                some = rows[first : first + 500]
                query = f"SELECT * FROM clips WHERE row IN ({', '.join('?' * len(some))})"
                for row in self._table.execute(query, [int(each) for each in some]):
                    found[row[0]] = dict(zip(self.columns, row, strict=True))
        return [found[int(row)] for row in rows]

    def row_of(self, name: str) -> int:
        """Return the row of a clip.

        Args:
            name: its id.

        Raises:
            InputError: if there is no such clip.
        """
        with self._reading():
            found = self._table.execute("SELECT row FROM clips WHERE id = ?", [name]).fetchone()
        if found is None:
            raise InputError(f"--like: expected the id of a clip of this index, found {name!r}; results list ids")
        return int(found[0])

    def having(self, modalities: Sequence[str]) -> np.ndarray:
        """Return the rows of the clips that have any of some modalities, ascending int64."""
        condition = " OR ".join(f"has_{name}" for name in modalities)
        with self._reading():
            rows = self._table.execute(f"SELECT row FROM clips WHERE {condition} ORDER BY row")
            return np.fromiter((row[0] for row in rows), dtype=np.int64)

    def by_video(self, columns: Sequence[str]) -> dict[str, Row]:
        """Return some columns of each video, which are the same for all of its clips.

        Args:
            columns: their names.
        """
        query = f"SELECT video, {', '.join(map(_quoted, columns))} FROM clips GROUP BY video"
        with self._reading():
            return {row[0]: dict(zip(columns, row[1:], strict=True)) for row in self._table.execute(query)}

    def kinds(self) -> list[tuple[str, str]]:
        """Return each video with each kind of its clips."""
        with self._reading():
            return list(self._table.execute("SELECT DISTINCT video, kind FROM clips"))

    def videos(self) -> list[str]:
        """Return the videos, in the order of their clips."""
        with self._reading():
            return [row[0] for row in self._table.execute("SELECT video FROM clips GROUP BY video ORDER BY min(row)")]

    def of_video(self, video: str) -> list[Row]:
        """Return the clips of a video, in the order of time.

        Args:
            video: its name.
        """
        with self._reading():
            rows = self._table.execute(
                'SELECT * FROM clips WHERE video = ? ORDER BY start, "end", row', [video]
            ).fetchall()
        return [dict(zip(self.columns, row, strict=True)) for row in rows]

    def longest_video(self) -> str:
        """Return the video with the most captions; of several the first in the index."""
        order = "sum(kind = 'caption') DESC, count(*) DESC, min(row)"
        with self._reading():
            found = self._table.execute(f"SELECT video FROM clips GROUP BY video ORDER BY {order} LIMIT 1").fetchone()
        if found is None:
            raise InputError(f"{self.path}: expected clips, found an empty index; make it again")
        return str(found[0])

    def with_text(self, modalities: Sequence[str]) -> np.ndarray:
        """Return the rows of captions whose clips have any of some modalities, ascending int64; else of windows."""
        other = " OR ".join(f"has_{name}" for name in modalities)
        query = f"SELECT row FROM clips WHERE has_text AND ({other}) AND kind = ? ORDER BY row"
        with self._reading():
            for kind in ("caption", "window"):
                found = np.fromiter((row[0] for row in self._table.execute(query, [kind])), dtype=np.int64)
                if len(found):
                    break
        return found

    def matching(self, words: str, limit: int) -> list[int]:
        """Return the rows of the clips whose text has any of some words, best first by BM25.

        Args:
            words: any text; its words are looked for, so it cannot be a wrong expression.
            limit: rows at most.
        """
        # quoted below, so that AND, NEAR and * are words and no operators
        terms = list(dict.fromkeys(re.findall(r"\w+", words)))
        if not terms:
            raise InputError("--words: expected words to look for, found none; write some")
        query = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank, rowid LIMIT ?"
        with self._reading():
            expression = " OR ".join(f'"{term}"' for term in self._rare(terms))
            return [row[0] for row in self._table.execute(query, [expression, limit])]

    def _rare(self, terms: Sequence[str]) -> list[str]:
        """Return the words that few clips have, of which ``COMMON`` clips together are few: the others weigh little."""
        query = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"
        counts = {term: self._table.execute(query, [f'"{term}"', COMMON + 1]).fetchone()[0] for term in terms}
        found: list[str] = []
        left = COMMON
        for term in sorted(counts, key=lambda term: counts[term]):
            left -= counts[term]
            if left < 0 and found:
                break
            found.append(term)
        return found

    def suggestions(self, beginning: str, limit: int = 10) -> list[str]:
        """Return texts that have words with the beginnings of those typed so far.

        Args:
            beginning: what was typed.
            limit: texts at most.
        """
        terms = re.findall(r"\w+", beginning)
        if not terms:
            return []
        expression = " ".join(f'"{term}"*' for term in terms)
        # bounded: one letter begins words of most captions
        some = "SELECT rowid FROM words WHERE words MATCH ? LIMIT 200"
        query = f"SELECT DISTINCT text FROM clips WHERE row IN ({some}) LIMIT ?"
        with self._reading():
            return [row[0] for row in self._table.execute(query, [expression, limit])]

    def where(self, condition: str) -> np.ndarray:
        """Return the rows that a condition of the user holds for, ascending int64. The latest ones are kept.

        The condition may read the table of clips and nothing else, for ten seconds at most.

        Args:
            condition: SQL, such as ``start > 60 and video like 'cooking%'``.

        Raises:
            InputError: if it is no condition, reads something else, or takes too long.
        """
        if (kept := self._kept.get(condition)) is not None:  # the table never changes
            return kept
        with self._asking(condition) as table:
            # the brackets keep a condition from ending the statement's; a comment would hide the last one
            rows = table.execute(f"SELECT row FROM clips WHERE (\n{condition}\n)")
            found = np.sort(np.fromiter(chain.from_iterable(rows), dtype=np.int64))
        self._kept[condition] = found
        if len(self._kept) > KEPT:
            self._kept.pop(next(iter(self._kept), ""), None)  # another thread may have been first
        return found

    def holding(self, condition: str, rows: Sequence[int], enough: int) -> list[int] | None:
        """Return the first rows that a condition of the user holds for, without reading the whole table.

        Args:
            condition: as in ``where``.
            rows: in the order in which they count.
            enough: how many are wanted.

        Returns:
            In the order given, at most ``enough``; ``None`` where reading the whole table is faster.

        Raises:
            InputError: as ``where`` does.
        """
        # a query inside the condition would read the whole table again for each part of the rows
        if "select" in condition.lower():
            return None
        found: list[int] = []
        kept = self._kept.get(condition)  # the same rows are tested, so that a second search has the same answers
        with self._asking(condition) as table:
            for first in range(0, max(len(rows), 1), TESTED):  # once without rows: a wrong condition is refused
                some = rows[first : first + TESTED]
                if kept is not None:
                    places = np.searchsorted(kept, some)  # ascending
                    holds = {*kept[places[places < len(kept)]].tolist()}
                else:
                    listed = ", ".join(str(int(row)) for row in some) or "-1"
                    query = f"SELECT row FROM clips WHERE row IN ({listed}) AND (\n{condition}\n)"
                    holds = {row for (row,) in table.execute(query)}
                found += [row for row in some if row in holds]
                if len(found) >= enough:
                    break
                if len(rows) > TESTABLE and len(found) * len(rows) < enough * (first + len(some)):
                    return None
        return found[:enough]

    @contextmanager
    def _asking(self, condition: str) -> Iterator[sqlite3.Connection]:
        """Open the table for a condition of the user, and say in one line what is wrong with it."""
        late = time.monotonic() + SECONDS
        # a connection of its own: the authorizer must not stop our own queries
        with closing(sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)) as table:
            table.execute("PRAGMA query_only = ON")
            table.set_authorizer(_authorize)
            # sqlite itself has no time limit for a statement
            table.set_progress_handler(lambda: time.monotonic() > late, STEPS)
            try:
                # one that closes the bracket and goes on with LIMIT or GROUP BY is refused here
                table.execute(f"SELECT (\n{condition}\n) FROM clips LIMIT 0")
                yield table
            except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
                reason = one_line(error)
                if "interrupted" in reason:
                    reason = f"one that takes more than {SECONDS:g} s"
                elif "not authorized" in reason or "prohibited" in reason:
                    reason = f"one that asks for more than them ({reason})"
                columns = ", ".join(self.columns)
                raise InputError(
                    f"--where: expected a condition on the columns {columns}, as in video like 'cooking%', found "
                    f"{condition!r}: {reason}"
                ) from None


def _authorize(action: int, first: str | None, second: str | None, *_: object) -> int:
    """Let a condition read the table of clips and call functions without side effects."""
    if action not in _READS or (action == sqlite3.SQLITE_READ and first != "clips"):
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK
