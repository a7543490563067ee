"""Sealed folders: a manifest has the sha256 of every file, which proves a folder whole when it is read.

States, folders of weights and finished folds are sealed alike. The manifest is written last, and is proven by
a hash of its own. Files that it does not name, such as notes or pictures, may come and go.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from utils.config import InputError
from utils.machine.files import as_json, digest, short_reason, write_json
from utils.machine.runtime import display_path

MANIFEST = "manifest.json"
FORMAT = 4  # of states, weights and folds; a folder of another format is refused
#: The end of every message about a fold that is damaged, or is another one: a way out that works.
RETRAIN = "train it anew with retrain=True (-p retrain True)."
WAY_OUT = f"copy it again from where it is whole, or {RETRAIN}"


def seal(folder: Path, names: Iterable[str] | None = None, **content) -> None:
    """Write the manifest of ``folder``: ``content`` and the sha256 of the files ``names`` (None: of all)."""
    if names is None:
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    names = sorted(name for name in names if name != MANIFEST)
    with ThreadPoolExecutor() as pool:
        files = dict(zip(names, pool.map(lambda name: digest(folder / name), names), strict=True))
    content = as_json({"format": FORMAT, **content, "files": files})
    write_json(folder / MANIFEST, {"content": content, "sha256": _hash(content)})


def read_manifest(folder: Path, where: str = "") -> dict:
    """What the manifest of ``folder`` holds: "files", and the content that it was sealed with.

    Args:
        where: the folder's name in messages, where its path would not tell.

    Raises InputError for a manifest that is missing, damaged, altered, or of another format.
    """
    name = f"{where or display_path(folder)}/{MANIFEST}"
    sealed = read_json(folder / MANIFEST, name)
    content = sealed.get("content")
    if not isinstance(content, dict) or _hash(content) != sealed.get("sha256"):
        raise InputError(f"{name} has been altered; {WAY_OUT}")
    if content["format"] != FORMAT:
        raise InputError(f"{name} is of format {content['format']}, this version reads {FORMAT}; {RETRAIN}")
    return content


def verify(folder: Path, within: str = "", where: str = "") -> dict:
    """``read_manifest``, once the files whose names begin with ``within`` are proven to be those sealed.

    Raises InputError naming the first file that is missing, cut short or altered.
    """
    content = read_manifest(folder, where)
    for name, expected in content["files"].items():
        path = f"{where or display_path(folder)}/{name}"
        try:
            whole = not name.startswith(within) or digest(folder / name) == expected
        except OSError as error:
            raise InputError(f"{path} cannot be read ({short_reason(error)}); {WAY_OUT}") from None
        if not whole:
            raise InputError(f"{path} is missing, cut short or altered; {WAY_OUT}")
    return content


def read_json(path: Path, where: str = "") -> dict:
    """The object in a JSON file. Raises InputError, which calls the file ``where``, if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{where or display_path(path)} is missing or damaged; {WAY_OUT}")
    return content


def _hash(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
