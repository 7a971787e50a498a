"""A real server and a real browser for tests."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from processes import LIMIT

from mcn_lightning.app.options import AppConfig
from mcn_lightning.app.server import guarded, opened
from mcn_lightning.search.index import Index

FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
"""WebGL is drawn by the processor."""


@contextmanager
def serving(folder: Path, token: str | None = None) -> Iterator[str]:
    """Serve an index from a thread, and give the address."""
    config = AppConfig(str(folder), decode_seconds=LIMIT, upload_seconds=LIMIT, max_upload_mb=1.0)
    with opened(config, Index.open(folder)) as library:
        options = uvicorn.Config(
            guarded(config, library, token),
            port=0,
            log_level="error",
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(options)
        thread = threading.Thread(target=server.run)
        thread.start()
        end = time.monotonic() + LIMIT
        while not server.started and thread.is_alive() and time.monotonic() < end:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def chromium() -> str:
    """Return the path of the browser; skip where there is none."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs the browser chromium")
    return found
