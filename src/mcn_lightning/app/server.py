"""The server of ``lightning app``: opens the index, takes a port, and answers until Ctrl-C."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from mcn_lightning.app.guard import Guard, make_token, names_of
from mcn_lightning.app.library import Library
from mcn_lightning.app.options import AppConfig
from mcn_lightning.app.site import Site
from mcn_lightning.app.uploads import Uploads
from mcn_lightning.errors import InputError, os_reason
from mcn_lightning.search.explore.decoder import MediaProcess
from mcn_lightning.search.explore.stills import SECONDS
from mcn_lightning.search.index import Index

CONNECTIONS = 64
PICTURES = 10  # seconds that the start of the process of pictures is waited for
CLOSING = 1  # seconds that open answers, such as a playing video, have at the end


def serve(config: AppConfig) -> None:
    """Serve the pages of an index until the process is interrupted.

    Args:
        config: what is served, and to whom.

    Raises:
        InputError: if the index cannot be opened, or the port cannot be taken.
    """
    index = Index.open(config.index, media_root=config.media_root)
    with _listening(config) as listener, opened(config, index) as library:
        port = listener.getsockname()[1]
        token = None if config.local else make_token()
        app = guarded(config, library, token)
        pictures = threading.Thread(target=library.start_pictures, daemon=True)
        pictures.start()
        library.warm_up()
        pictures.join(PICTURES)  # its imports would slow the first searches
        shown = config.host if not config.local or config.host == "localhost" else "127.0.0.1"
        shown = f"[{shown}]" if ":" in shown else shown
        print(f"http://{shown}:{port}/{'' if token is None else f'?token={token}'}  ({len(index):,} clips; "
              "Ctrl-C ends the server)", flush=True)  # fmt: skip
        options = uvicorn.Config(
            app, log_level="error", access_log=False, server_header=False, lifespan="off", ws="none",
            limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=CLOSING,
        )  # fmt: skip
        uvicorn.Server(options).run(sockets=[listener])


def guarded(config: AppConfig, library: Library, token: str | None = None) -> ASGIApp:
    """Return the application behind its guard.

    Args:
        config: names of the server.
        library: the index.
        token: that is asked for; ``None`` for none.
    """
    return Guard(Site(library).app(), names_of(config.host, config.allowed_hosts), token)


@contextmanager
def opened(config: AppConfig, index: Index) -> Iterator[Library]:
    """Give the library of an index, and end its processes and delete its files at the end.

    Args:
        config: limits of uploads.
        index: the index.
    """
    reader, stills = MediaProcess(config.decode_seconds), MediaProcess(SECONDS)
    uploads = Uploads(reader, int(config.max_upload_mb * 1e6), config.upload_seconds)
    try:
        yield Library(index, uploads, stills)
    finally:
        reader.close()
        stills.close()
        uploads.close()


@contextmanager
def _listening(config: AppConfig) -> Iterator[socket.socket]:
    """Take the port before the index is read, so that one in use is known at once."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # a port is held for a minute after its server has ended
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((config.host, config.port))
        except OSError as error:
            found = f"{os_reason(error)}; give a port that is free, or an address of this machine"
            raise InputError(
                f"--host {config.host} --port {config.port}: expected to listen there, found {found}"
            ) from None
        listener.listen(CONNECTIONS)  # before the address is printed, whoever is fast waits and is not refused
        yield listener
