"""The addresses of the app: its pages, what they ask for, and the media of the index."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from mcn_lightning.app.library import Library
from mcn_lightning.app.queries import MOST_CLIPS, read_query
from mcn_lightning.app.uploads import TooLargeError, TooSlowError
from mcn_lightning.errors import InputError

PAGES = {"/": "search.html", "/map": "map.html", "/clusters": "clusters.html"}
STATIC = (
    "style.css", "common.js", "cards.js", "moments.js", "search.js", "query.js", "map.js", "scatter.js", "lasso.js",
    "clusters.js", "icon.svg",
)  # fmt: skip
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MEDIA_TYPES = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm", ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo", ".ogv": "video/ogg", ".mpg": "video/mpeg", ".mpeg": "video/mpeg", ".ts": "video/mp2t",
    ".wav": "audio/wav", ".mp3": "audio/mpeg", ".m4a": "audio/mp4", ".flac": "audio/flac", ".ogg": "audio/ogg",
    ".opus": "audio/ogg", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp",
}  # fmt: skip
"""Files of other types are served as plain bytes, which no browser runs."""
OLD_MAP = "Clips were added since the map was made. `lightning plot` makes it again; principal components stand for it."
THREADS, STILLS = 8, 2
_OPTION = re.compile(r"^--\w+:? ")
Found = TypeVar("Found")


class Site:
    """Answers the requests.

    Args:
        library: the index.
    """

    def __init__(self, library: Library) -> None:
        self.library = library
        # pictures have threads of their own: a film that is slow to read must not keep searches waiting
        self._slow, self._pictures = CapacityLimiter(THREADS), CapacityLimiter(STILLS)
        own = files("mcn_lightning.app").joinpath("static")
        # read once: no path from a request ever reaches the file system
        self._static = {name: own.joinpath(name).read_bytes() for name in (*PAGES.values(), *STATIC)}

    def app(self) -> Starlette:
        """Return the application."""
        get = partial(Route, methods=["GET"])
        routes = [get(address, partial(self._file, name)) for address, name in PAGES.items()]
        routes += [get(f"/static/{name}", partial(self._file, name)) for name in STATIC]
        routes += [
            get("/api/about", self._about),
            get("/api/search", self._search),
            get("/api/moments", self._moments),
            get("/api/suggest", self._suggest),
            get("/api/clips", self._clips),
            get("/api/map", self._map),
            get("/api/groups/{column}", self._groups),
            get("/api/codes/{column}", self._codes),
            get("/api/clusters", self._clusters),
            get("/media/{row:int}", self._media),
            get("/still/{row:int}", self._still),
            Route("/api/upload", self._upload, methods=["POST"]),
        ]
        handlers: dict[Any, Any] = {InputError: _refused}
        return Starlette(routes=routes, exception_handlers=handlers)

    async def _wait(self, work: Callable[..., Found], *args: Any) -> Found:
        """Do slow work in a thread."""
        return await to_thread.run_sync(work, *args, limiter=self._slow)

    async def _file(self, name: str, request: Request) -> Response:
        # no-cache asks each time, so that a page of an earlier version is not mixed with new scripts
        return Response(self._static[name], media_type=TYPES[Path(name).suffix], headers={"Cache-Control": "no-cache"})

    async def _about(self, request: Request) -> Response:
        return JSONResponse(await self._wait(self.library.about))

    async def _search(self, request: Request) -> Response:
        asked = read_query(request.query_params)
        return JSONResponse(await self._wait(self.library.search, asked))

    async def _moments(self, request: Request) -> Response:
        row = _row(request.query_params.get("row", ""))
        return JSONResponse(await self._wait(self.library.moments, row, read_query(request.query_params)))

    async def _suggest(self, request: Request) -> Response:
        return JSONResponse(await self._wait(self.library.suggest, request.query_params.get("q", "")[:200]))

    async def _clips(self, request: Request) -> Response:
        name = request.query_params.get("id")
        if name is not None:
            return JSONResponse([await self._wait(self.library.named, name[:1000])])
        rows = [_row(text) for text in request.query_params.get("rows", "").split(",") if text][:MOST_CLIPS]
        return JSONResponse(await self._wait(self.library.clips, rows))

    async def _map(self, request: Request) -> Response:
        points, old = await self._wait(self.library.points, request.query_params.get("modality", "")[:3])
        found = _binary(points.astype("<f4"))
        if old:
            found.headers["X-Notice"] = OLD_MAP
        return found

    async def _groups(self, request: Request) -> Response:
        groups = await self._wait(self.library.groups, request.path_params["column"])
        sizes = groups.sizes()
        return JSONResponse([{"code": code, "size": sizes[code], "label": groups.labels[code]}
                             for code in [*sizes][:MOST_CLIPS]])  # fmt: skip

    async def _codes(self, request: Request) -> Response:
        groups = await self._wait(self.library.groups, request.path_params["column"])
        return _binary(groups.codes.astype("<i4"))

    async def _clusters(self, request: Request) -> Response:
        groups = await self._wait(self.library.groups, "cluster")
        found = await self._wait(self.library.clusters)
        return JSONResponse(
            [
                {
                    "code": code,
                    "size": size,
                    "label": groups.labels[code],
                    "agreement": found[code].agreement if code in found else None,
                    "nearest": found[code].nearest if code in found else [],
                    "between": found[code].between if code in found else [],
                }
                for code, size in groups.sizes().items()
            ]
        )

    async def _media(self, request: Request) -> Response:
        path = await self._wait(self.library.media, request.path_params["row"])
        if path is None:
            return JSONResponse({"error": "There is no video of this clip at hand."}, 404)
        return FileResponse(path, media_type=MEDIA_TYPES.get(path.suffix.lower(), "application/octet-stream"))

    async def _still(self, request: Request) -> Response:
        try:
            found = await to_thread.run_sync(self.library.still, request.path_params["row"], limiter=self._pictures)
        except InputError as error:
            return JSONResponse({"error": str(error)}, 404)
        if found is None:
            return JSONResponse({"error": "There is no picture of this clip at hand."}, 404)
        return Response(found, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    async def _upload(self, request: Request) -> Response:
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.library.uploads.most:
            raise TooLargeError(f"The file has more than {self.library.uploads.most / 1e6:g} MB. Try a shorter one.")
        upload = await self.library.uploads.take(request.stream())
        return JSONResponse({"file": upload.name, "picture": upload.picture, "sound": upload.sound})


def _row(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise InputError(f"rows: expected numbers of clips, found {text[:20]!r}.")
    return int(text)


def _binary(values: np.ndarray) -> Response:
    return Response(values.tobytes(), media_type="application/octet-stream")


def _refused(request: Request, error: Exception) -> Response:
    status = 413 if isinstance(error, TooLargeError) else 408 if isinstance(error, TooSlowError) else 400
    said = _OPTION.sub("", " ".join(str(error).split()))  # the page has no options
    return JSONResponse({"error": said}, status)
