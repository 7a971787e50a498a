"""Models on the Hugging Face hub: fetch one by its name, and upload the folder of a shared model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mcn_lightning.errors import InputError, one_line
from mcn_lightning.inference.shared import CARD, CONFIG, WEIGHTS, WORDS

FILES = (CONFIG, WEIGHTS, WORDS, CARD)
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_name(text: str) -> bool:
    """Return whether a text can be the name of a model on the hub, such as ``user/name``."""
    return _NAME.fullmatch(text) is not None


def fetch(name: str, **options: Any) -> Path:
    """Return the folder of a model of the hub, fetched into the hub's cache if it is not there yet.

    Args:
        name: such as ``user/name``.
        **options: of ``huggingface_hub.snapshot_download``.

    Raises:
        InputError: if there is no such model, or it can neither be reached nor is in the cache.
    """
    from huggingface_hub import snapshot_download  # the import takes a moment, and most models lie on this machine
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        # only these files: a repository may hold others, such as checkpoints that can run code
        return Path(snapshot_download(name, allow_patterns=list(FILES), **options))
    except RepositoryNotFoundError:
        reason = "none of this name that you may read; `hf auth login` opens private ones"
    except LocalEntryNotFoundError:
        reason = "no connection and no copy on this machine; fetch it once with `hf download`"
    except (HFValidationError, HTTPError, OSError) as error:
        reason = one_line(error)
    raise InputError(f"{name}: expected a file, a folder, or a model of the hub, found {reason}; check the name")


def push(folder: Path, name: str, private: bool) -> str:
    """Upload the folder of a shared model. A repository that does not exist is made.

    Args:
        folder: that ``write_shared`` filled.
        name: such as ``user/name``.
        private: whether a new repository is private.

    Returns:
        The address of the model.

    Raises:
        InputError: if the hub cannot be reached or refuses it. The folder stays.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError

    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=folder, allow_patterns=list(FILES), commit_message="Upload by mcn-lightning"
        )
    except (HFValidationError, HTTPError, OSError) as error:
        reason = one_line(error)
        advice = f"`hf auth login` stores a token. {folder} is written"
        raise InputError(f"--push {name}: expected a hub that takes the model, found {reason}; {advice}") from None
    return f"{api.endpoint}/{name}"
