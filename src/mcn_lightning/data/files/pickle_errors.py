"""Descriptions of files that cannot be unpickled, and the Python command that converts them."""

from __future__ import annotations

import pickletools
import sys
import warnings
from pathlib import Path

from mcn_lightning.files import binary_form


def describe_unreadable_pickle(path: Path, reason: str) -> str:
    """Describe a file that cannot be unpickled: another format, a pickle of other versions, or a damaged one.

    Args:
        path: the file.
        reason: message of the unpickler.
    """
    content = path.read_bytes() if path.is_file() else b""
    # torch.save writes a zip file since release 1.6, whose first entry is data.pkl
    if content.startswith(b"PK\x03\x04") and b"data.pkl" in content[:200]:
        return describe_torch_file(path)
    form = binary_form(content[:16])
    if form is not None and not content.startswith(b"\x80"):
        return f"{form[0]} ({reason}): give a pickle"
    if content.lstrip()[:1] in (b"{", b"["):
        return "text that may be JSON: name it .json"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # protocol 0 has texts with escapes that Python warns about
            # genops only lists the instructions, and runs none
            texts = [item for code, item, _ in pickletools.genops(content) if isinstance(item, str)]
    except (ValueError, OverflowError, IndexError, SyntaxError):
        return f"a damaged one ({reason}): get the file again"
    packages = ("pandas", "torch", "numpy")
    named = [name for name in packages if any(text.startswith((name, f"{name}.")) for text in texts)]
    versions = f"other versions of {' and '.join(named)}" if named else "another program"
    return f"one of {versions} that cannot be rebuilt here ({reason}){conversion_advice(path, *named[:1])}"


def describe_torch_file(path: Path) -> str:
    """Describe a file of torch.save, with the command that converts it to a pickle."""
    line = f"pickle.dump(torch.load('{path}', weights_only=True), open('NEW.pickle', 'wb'))"
    return f'a file of torch.save: convert it with python -c "import pickle, torch; {line}"'


def conversion_advice(path: Path, module: str = "") -> str:
    """Return the Python command that converts a pickle of another library to one of plain lists.

    Names of the standard library get a warning instead, except for a few types: reading such a file may run any code.
    """
    package = module.split(".")[0]
    if (package in sys.stdlib_module_names or package in ("__builtin__", "nt")) and package not in _TYPES:
        return "; reading it elsewhere may run any code that it holds"
    if package == "joblib":
        line = f"import joblib, pickle; pickle.dump(joblib.load('{path}'), open('NEW.pickle', 'wb'))"
    else:
        read = f"pd.read_pickle('{path}')" if package == "pandas" else f"pickle.load(open('{path}', 'rb'))"
        table = f"{{k: {{c: list(v[c]) for c in v}} for k, v in {read}.items()}}"
        if _is_list(path):  # of clips
            plain = "v if type(v).__module__ in ('builtins', 'numpy', 'torch') else str(v)"
            table = f"[{{k: {plain} for k, v in row.items()}} for row in {read}]"
        with_pandas = ", pandas as pd" if package == "pandas" else ""
        line = f"import pickle{with_pandas}; pickle.dump({table}, open('NEW.pickle', 'wb'))"
    return f'; if you trust the file, convert it where {package or "its library"} is installed: python -c "{line}"'


def _is_list(path: Path) -> bool:
    """Tell whether a pickle holds a list, by its first instruction."""
    with open(path, "rb") as file:
        head = file.read(16)
    head = head[2:] if head.startswith(b"\x80") else head  # the protocol
    head = head[9:] if head.startswith(b"\x95") else head  # the size of the first frame
    return head.startswith((b"]", b"(l"))


_TYPES = ("collections", "datetime", "decimal", "fractions", "pathlib", "uuid")
"""Modules of the standard library whose types may be unpickled safely."""
