"""Packages and weights of encoders: what is missing is told in one line, with the command that brings it."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mcn_lightning.errors import InputError, first_line, need_package, why_unreadable

HUB_CACHE = "~/.cache/huggingface (HF_HOME)"
TORCH_CACHE = "~/.cache/torch (TORCH_HOME)"
"""Where libraries keep what they download, and the environment variable that moves it."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OBJECTS = "objects beside tensors, which could run code"
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which files of weights keep the state dict."""
NO_NETWORK = {"ConnectionError", "ConnectError", "ConnectTimeout", "LocalEntryNotFoundError", "URLError", "ProxyError"}
"""Classes of errors that say that a server could not be reached."""
NOT_THERE = {"RepositoryNotFoundError", "RevisionNotFoundError", "GatedRepoError"}
"""Classes of errors that say that the server has no such model for this user."""


def import_package(module: str, name: str, extra: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: to import.
        name: of the encoder, for messages.
        extra: extra of this project that installs the package.

    Raises:
        InputError: if it is missing or does not load.
    """
    advice = f"pip install 'mcn-lightning[{extra}]'"
    need_package(module, name, advice)
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # a torchvision that does not fit to torch raises RuntimeError
        found = f"one that does not load ({first_line(error)[:200]})"
        raise InputError(f"{name}: expected {module}, found {found}; {advice} in a new environment") from None


def near(name: str, known: Iterable[str]) -> str:
    """Return advice of names that are near to a wrong one: "did you mean a or b?"; else the first of those known."""
    names = list(known)
    # 0.5 and lower case, as users leave out prefixes and tags
    found = get_close_matches(name, names, 3) or get_close_matches(name.lower(), names, 3, 0.5)
    return (
        f"did you mean {' or '.join(found)}?"
        if found
        else f"there are {', '.join(names[:4]) or 'none'}" + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    )


@contextmanager
def fetching(name: str, cache: str, similar: str = "") -> Iterator[None]:
    """Tell in one line what goes wrong while a library fetches or loads weights.

    Args:
        name: of the encoder.
        cache: the folder of the library's cache, for messages.
        similar: advice of names that are near, where the library's list of models is on a server.

    Raises:
        InputError: if there is no network and nothing in the cache, no such model, or weights that do not load.
    """
    try:
        with without_logs():
            yield
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, LookupError, ImportError, AssertionError, UnpicklingError) as error:
        classes = {kind.__name__ for each in _chain(error) for kind in type(each).__mro__}
        if classes & NOT_THERE:
            found, advice = (
                "none that this user may read",
                similar or "check the name, log in by hf auth login, or give a folder",
            )
        elif classes & NO_NETWORK or "couldn't connect" in str(error).lower():
            found = "neither"
            advice = (
                f"{similar or ''}{' else ' if similar else ''}"
                'run once where there is a network: python -c "from mcn_lightning.extract.encoders import make_encoder;'
                f" make_encoder('{name}')\"; then copy {cache} here, or give a folder or a file of weights"
            )
            raise InputError(
                f"{name}: expected its weights in the cache or a network, found {found}; {advice}"
            ) from None
        else:
            # torch's message is not shown: it advises weights_only=False, which lets a file run code
            found = OBJECTS if isinstance(error, UnpicklingError) else first_line(error)[:200]
            advice = "check the name and the file"
        raise InputError(f"{name}: expected a model with its weights, found {found}; {advice}") from error


@contextmanager
def without_logs() -> Iterator[None]:
    """Keep libraries from logging, many times, what the message of an error says once."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def find_file(path: str, name: str, what: str) -> Path:
    """Return the path of a file that exists.

    Args:
        path: as the user gave it.
        name: of the encoder, for messages.
        what: what the file should be.

    Raises:
        InputError: if there is none, with the names of files that are near.
    """
    return _find(path, f"{name}: expected {what}, found no file", Path.is_file)


def find_folder(path: str, name: str) -> Path:
    """Return the path of the folder of a model that exists.

    Args:
        path: as the user gave it.
        name: of the encoder, for messages.

    Raises:
        InputError: if there is none, with the names of folders that are near.
    """
    return _find(path, f"{name}: expected the folder of a model, found no folder", Path.is_dir)


def find_whole(path: str, weights: str | None, name: str, what: str) -> Path:
    """Return the path of a file that holds a network with its weights.

    Args:
        path: as the user gave it.
        weights: must be ``None``.
        name: of the encoder, for messages.
        what: what the file should be.

    Raises:
        InputError: if there is no such file, or other weights are given.
    """
    if weights is not None:
        raise InputError(f"{name}: expected no weights, as the file has them, found {weights}; omit them")
    return find_file(path, name, what)


def _find(path: str, refusal: str, exists: Callable[[Path], bool]) -> Path:
    found = Path(path).expanduser()
    if not exists(found):
        raise InputError(f"{refusal} {found}; {_near_path(found)}")
    return found


def _near_path(path: Path) -> str:
    similar = get_close_matches(path.name, [each.name for each in sorted(path.parent.glob("*"))], 3)
    return f"did you mean {' or '.join(similar)}?" if similar else "check the path"


def read_state(path: str, name: str) -> dict[str, Tensor]:
    """Read a state dict of ``torch.save`` or safetensors without running code from it.

    Args:
        path: the file. A state dict under the key ``state_dict`` or ``model``, and names with ``module.``, are found.
        name: of the encoder, for messages.

    Raises:
        InputError: if the file is missing or holds something else.
    """
    file = find_file(path, name, "a file of weights")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # for damaged files torch.load raises many kinds of errors
        found = why_unreadable(file, error) if not isinstance(error, UnpicklingError) else OBJECTS
        raise InputError(f"{name}: expected a state dict of tensors in {file}, found {found}") from None
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(isinstance(each, Tensor) for each in content.values()):
        raise InputError(f"{name}: expected a state dict of tensors in {file}, found {type(content).__name__}")
    return {key.removeprefix("module."): value for key, value in content.items()}


def load_state(network: nn.Module, path: str, name: str, unused: Sequence[str] = ()) -> None:
    """Load a file of weights into a network. All weights must be there, and be of its shapes.

    Args:
        network: to fill.
        path: see ``read_state``.
        name: of the encoder, for messages.
        unused: beginnings of names that the file may have and the network lacks, as those of a classifier.

    Raises:
        InputError: if the file does not fit.
    """
    state = read_state(path, name)
    wanted = network.state_dict()
    state = {key: value for key, value in state.items() if key in wanted or not key.startswith(tuple(unused))}
    counters = {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")}
    state = {**counters, **state}  # which old files lack, and no network uses in evaluation mode
    problems = {
        "lacks": [key for key in wanted if key not in state],
        "has beside": [key for key in state if key not in wanted],
        "has in another shape": [key for key in wanted if key in state and state[key].shape != wanted[key].shape],
    }
    for what, keys in problems.items():
        if keys:
            found = f"a file that {what} {', '.join(keys[:3])} ({len(keys)} in all)"
            raise InputError(f"{name}: expected the weights of this network in {path}, found {found}; check the model")
    network.load_state_dict(state)
