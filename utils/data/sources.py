"""Where tables come from: finding them on this machine, and downloading them."""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import kagglehub
import torch
from kagglehub.config import get_kaggle_credentials

from utils.config import InputError, nearest
from utils.data.reading import read_table
from utils.data.vader import download_vader
from utils.machine import files, runtime

# The CLEAR corpus (Crossley et al. 2022), CC BY-NC-SA 4.0, pinned to a commit.
CLEAR_COMMIT = "201de282b36107e40079b534bd0552a0dfe7210a"
CLEAR_URL = f"https://github.com/scrosseye/CLEAR-Corpus/raw/{CLEAR_COMMIT}/CLEAR_corpus_final.xlsx"
CLEAR_COLUMNS = {
    "ID": "id",
    "URL": "url_legal",
    "License": "license",
    "Excerpt": "excerpt",
    "BT_easiness": "target",
    "s.e.": "standard_error",
}
KAGGLE_INPUT = Path("/kaggle/input")  # a competition's train.csv may be at several depths
KAGGLE_COMPETITIONS = {
    "commonlit": "commonlitreadabilityprize",
    "feedback": "feedback-prize-english-language-learning",
}
#: The files in this repository's data/.
BUILT_IN = {
    "sample": "sample/train.csv",
    "aspects": "aspects/train.csv",
    "questions": "questions/train.json",
}
OPEN = {"clear": "4 MB", "vader": "2 MB by pip"}  # who wants these needs no account
SOURCES = (*BUILT_IN, *OPEN, *KAGGLE_COMPETITIONS)


def find_table(source: str) -> Path:
    """The file of ``Config.data``: the name of a source, such as "sample" or "clear", or a path.

    Relative paths are looked up in the current directory, then in the workspace. "clear" and "vader" are
    downloaded if absent; so is a competition if there is a Kaggle token. Raises InputError without a file.
    """
    if path := local_table(source):
        return path
    if source == "clear":
        return download_clear(_downloaded(source))
    if source == "vader":
        return download_vader(_downloaded(source))
    if source in KAGGLE_COMPETITIONS:
        if kaggle_token():
            return download_competition(KAGGLE_COMPETITIONS[source], _downloaded(source))
        raise InputError(
            f"the {source} data are neither mounted under {KAGGLE_INPUT} nor at "
            f"{runtime.display_path(_downloaded(source))}; attach the competition on Kaggle, put its "
            "train.csv there, or set KAGGLE_API_TOKEN to a token from Kaggle's settings page to download it."
        )
    hint = "" if "/" in source or "." in source else f" or a known source; {nearest(source, SOURCES)}"
    raise InputError(f"data={source!r} is not a file{hint or '; check the path.'}")


def local_table(source: str) -> Path | None:
    """The file of a source if it is on this machine already."""
    if source not in SOURCES:
        candidates = [Path(source), runtime.workspace() / source]
    elif source in BUILT_IN:
        candidates = [runtime.ROOT / "data" / BUILT_IN[source]]
    elif source in OPEN:
        candidates = [_downloaded(source)]
    else:
        names = ("train.csv", "train.csv.zip")  # the second is what Kaggle's own downloads may be
        mounted = [KAGGLE_INPUT.glob(f"**/{KAGGLE_COMPETITIONS[source]}/{name}") for name in names]
        candidates = [path for paths in mounted for path in sorted(paths)]
        candidates += [_downloaded(source).with_name(name) for name in names]
    return next((path for path in candidates if path.is_file()), None)


def _downloaded(source: str) -> Path:
    """Where a download of this source is kept."""
    return runtime.workspace() / "data" / source / "train.csv"


def sources() -> dict[str, str]:
    """The status of each known source: where it is, or how it would be downloaded. Downloads nothing."""
    return {source: _status(source) for source in SOURCES}


def _status(source: str) -> str:
    if path := local_table(source):
        return f"here: {runtime.display_path(path)}"
    if source in OPEN:
        return f"can be downloaded, {OPEN[source]}, no account needed"
    try:
        token = kaggle_token()
    except InputError as error:
        return str(error)
    return f"can be downloaded with {token}" if token else "needs Kaggle: attach it there, or set a token"


_TOKEN_VARIABLES = ("KAGGLE_API_TOKEN", "KAGGLE_KEY")


def kaggle_token() -> str | None:
    """Where kagglehub will find a Kaggle token, never the token itself; None if there is none.

    kagglehub looks at the environment (KAGGLE_API_TOKEN may name a file), at ~/.kaggle (or KAGGLE_CONFIG_DIR)
    and at Colab's secrets. Raises InputError for a token file that others can read.
    """
    variables = [name for name in _TOKEN_VARIABLES if os.environ.get(name)]
    token_files = _token_files(variables)
    for path in token_files:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise InputError(
                f"others on this machine can read the Kaggle token in {path}; run: chmod 600 {path}"
            )
    try:
        if get_kaggle_credentials() is None:
            return None
    except ValueError as error:  # an invalid kaggle.json; kagglehub's message names the file, not its content
        raise InputError(f"{error}; get a new one from Kaggle's settings page.") from None
    if variables:
        return f"the environment's {variables[0]}"
    if token_files:
        return str(token_files[0])
    return "Colab's secret" if runtime.platform_name() == "colab" else "this session's token"


def _token_files(variables: list[str]) -> list[Path]:
    """The existing files in which kagglehub looks for a token, those named by environment variables first."""
    folder = Path.home() / ".kaggle"
    candidates = [
        *(Path(os.environ[name]) for name in variables),
        folder / "access_token",
        folder / "access_token.txt",
        Path(os.environ.get("KAGGLE_CONFIG_DIR") or folder) / "kaggle.json",
    ]
    return [path for path in candidates if os.path.isfile(path)]


def download_competition(slug: str, target: Path) -> Path:
    """Download a Kaggle competition's train.csv with the user's token; ``target`` appears only complete."""
    address = f"https://www.kaggle.com/competitions/{slug}"
    try:
        downloaded = kagglehub.competition_download(slug, path="train.csv")
    except Exception as error:  # kagglehub passes on errors of requests, of its own and of the file system
        status = getattr(getattr(error, "response", None), "status_code", None)
        advice_by_status = {
            401: "Kaggle refused the token; make a new one on its settings page",
            403: f"accept the competition's rules at {address}/rules, then try again",
        }
        advice = advice_by_status.get(status or 0, "check the connection and the token")
        reason = f"HTTP {status}" if status else type(error).__name__
        raise InputError(f"{slug} could not be downloaded from Kaggle ({reason}): {advice}.") from None
    with files.atomic_file(target) as temporary:
        shutil.copy(downloaded, temporary)
    return target


def download_clear(target: Path, url: str = CLEAR_URL) -> Path:
    """Download the CLEAR corpus's spreadsheet and write it to ``target`` as a CSV with CommonLit's columns.

    Shows progress. ``target`` appears only when the whole spreadsheet has been downloaded and read.
    """
    with tempfile.TemporaryDirectory() as folder:
        sheet = Path(folder) / "clear.xlsx"
        try:
            with _socket_timeout(60):  # torch's download sets none of its own
                torch.hub.download_url_to_file(url, str(sheet), progress=runtime.progress_wanted())
        except OSError as error:  # urllib's errors are OSErrors
            raise InputError(
                f"the CLEAR corpus could not be downloaded from {url} ({error}); check the connection, "
                f'or use data="sample", which needs none.'
            ) from None
        table = read_table(sheet, sheet="Data")
    if missing := sorted(set(CLEAR_COLUMNS) - set(table.columns)):
        raise InputError(
            f"the download from {url} lacks the column {missing[0]!r}; it is not the CLEAR corpus."
        )
    table = table.loc[table["ID"].astype(str).str.strip() != "", list(CLEAR_COLUMNS)].rename(
        columns=CLEAR_COLUMNS
    )
    files.write_table(target, table)
    return target


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Give up on connections on which no byte arrives for this long."""
    usual_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(usual_timeout)
