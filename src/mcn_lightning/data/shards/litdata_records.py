"""LitData's reader, held to what cannot run code; a module of its own, as LitData is optional and slow to import."""

from __future__ import annotations

from typing import Any

from litdata import StreamingDataset
from litdata.streaming import item_loader


class PyTreeLoader(item_loader.PyTreeLoader):  # type: ignore[misc]  # LitData compares the name with the index
    """Reads records of bytes and nothing else: LitData unpickles where the index of a store asks for it."""

    def setup(self, config: dict[str, Any], *args: Any, **options: Any) -> None:
        """Take the index of a store.

        Raises:
            ValueError: if its records hold something else than bytes.
        """
        if set(config["data_format"]) != {"bytes"}:
            raise ValueError(f"fields of the formats {', '.join(sorted(set(config['data_format'])))}, not bytes")
        super().setup(config, *args, **options)


def open_records(address: str) -> Any:
    """Open the records of a folder or an address."""
    return StreamingDataset(address, item_loader=PyTreeLoader())
