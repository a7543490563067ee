"""Pushing a folder, with its card, to the Hugging Face hub."""

import re
import shutil
import tempfile
from pathlib import Path

import httpx
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from utils.config import InputError
from utils.machine.files import atomic_folder, short_reason
from utils.machine.runtime import display_path
from utils.release import CARD
from utils.release.card import card
from utils.release.onnx import load
from utils.runs.seal import MANIFEST, read_manifest


def stage(folder: Path, target: Path, name: str) -> list[str]:
    """Copy into ``target`` what goes to the hub: the sealed files, their manifest, the card; their names.

    Raises InputError for a folder that holds no model, or a damaged one, and if ``target`` cannot be written.
    """
    load(folder)  # which proves it whole, and readable
    names = [*read_manifest(folder)["files"], MANIFEST]
    where = display_path(target)
    if target.exists() and not (target / MANIFEST).is_file():
        raise InputError(f"{where} exists and was not written by publish; move it away.")
    try:
        with atomic_folder(target) as new:
            for file in names:
                (new / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / file, new / file)
            own = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
            (new / CARD).write_text(own or card(folder, name), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{where} cannot be written ({short_reason(error)}); free some space.") from None
    return sorted({*names, CARD})


def publish(folder: Path, name: str, dry_run: bool = False) -> str:
    """Push a folder and its card to the hub, as a private model.

    Args:
        folder: of weights, or exported.
        name: owner/name on the hub. The token is the user's own, from HF_TOKEN or ``hf auth login``.
        dry_run: push nothing, and leave what would go in a folder beside.

    Returns:
        A sentence that says where it is. Raises InputError without a token, and when the hub refuses it.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"--to {name!r} is no model of the hub; write owner/name.")
    if dry_run:
        target = folder.with_name(f"{folder.resolve().name}-hub")
        return (
            f"{display_path(target)} holds what would go to {name}: {', '.join(stage(folder, target, name))}."
        )
    if not get_token():
        raise InputError("there is no token for the hub; run: hf auth login, or set HF_TOKEN.")
    with tempfile.TemporaryDirectory(dir=folder.resolve().parent) as temporary:
        staged = Path(temporary) / "staged"
        stage(folder, staged, name)
        return f"Published, for you alone: {push(staged, name, display_path(folder))}"


def push(staged: Path, name: str, where: str) -> str:
    """Upload a folder as a private model; its address. ``where``: what it is called in messages."""
    api = HfApi()
    try:
        api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=staged, commit_message="A model and its card")
    except HfHubHTTPError as error:
        raise InputError(
            f"{where} was not published: the hub answered {error.response.status_code}; check that the token "
            f"may write to {name.split('/')[0]}."
        ) from None
    except (OSError, httpx.HTTPError) as error:
        raise InputError(
            f"{where} was not published: the hub is out of reach ({type(error).__name__}); check the "
            "connection, and try again."
        ) from None
    return f"{api.endpoint}/{name}"
