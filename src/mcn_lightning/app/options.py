"""Options of ``lightning app``."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from mcn_lightning.errors import InputError
from mcn_lightning.options.config import Options
from mcn_lightning.options.ranges import NonNegativeInt, PositiveFloat


@dataclass(frozen=True)
class AppConfig(Options, option="app"):
    """What is served, and to whom.

    Args:
        index: folder of the index, as ``lightning index`` wrote it.
        host: address to listen on. Other machines can reach any address but 127.0.0.1; the page then asks for a token.
        port: to listen on; 0 takes a free one.
        media_root: folder of the videos, if they have moved since the index was made.
        allowed_hosts: further names of this machine that a browser may use, such as ``server.example.org``.
        max_upload_mb: megabytes of a file that is dropped on the page, at most.
        upload_seconds: time that such a file may take to arrive.
        decode_seconds: time that reading it may take.
        export: Parquet file of clips and map for embedding-atlas, written in place of a server.
    """

    index: str
    host: str = "127.0.0.1"
    port: NonNegativeInt = 8000
    media_root: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    max_upload_mb: PositiveFloat = 100.0
    upload_seconds: PositiveFloat = 120.0
    decode_seconds: PositiveFloat = 60.0
    export: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.port > 65_535:
            raise InputError(f"--port: expected a number up to 65535, found {self.port}")
        if not self.host.strip():
            raise InputError("--host: expected an address, found none; leave it out for 127.0.0.1")

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the page."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
