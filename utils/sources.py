"""Where tables come from: finding them on this machine, fetching them from their publishers, reading files."""

import csv
import os
import shutil
import socket
import tempfile
from pathlib import Path

import kagglehub
import pandas as pd
import torch
from kagglehub.config import get_kaggle_credentials

from utils import runtime
from utils.config import InputError, nearest

# The CLEAR corpus (Crossley et al. 2022), CC BY-NC-SA 4.0, pinned to a commit of github.com/scrosseye/CLEAR-Corpus.
CLEAR_URL = (
    "https://github.com/scrosseye/CLEAR-Corpus/raw/201de282b36107e40079b534bd0552a0dfe7210a/CLEAR_corpus_final.xlsx"
)
CLEAR_COLUMNS = {
    "ID": "id", "URL": "url_legal", "License": "license", "Excerpt": "excerpt", "BT_easiness": "target",
    "s.e.": "standard_error",
}  # fmt: skip
KAGGLE_INPUT = Path("/kaggle/input")  # a competition's files lie in a folder of its name, at one of several depths
KAGGLE_COMPETITIONS = {
    "commonlit": "commonlitreadabilityprize",
    "feedback": "feedback-prize-english-language-learning",
}
SOURCES = ("sample", "clear", *KAGGLE_COMPETITIONS)


def find_table(source: str) -> Path:
    """The file behind ``Config.data``: "sample", "clear", "commonlit", "feedback", or a path.

    Relative paths are looked for in the current directory, then in the workspace. "clear" is downloaded if absent, a
    competition if there is a Kaggle token. Raises InputError naming every place that was looked at.
    """
    if found := here(source):
        return found
    if source == "clear":
        return download_clear(runtime.workspace() / "data" / "clear" / "train.csv")
    if source in KAGGLE_COMPETITIONS:
        local = runtime.workspace() / "data" / source / "train.csv"
        if kaggle_token():
            return download_competition(KAGGLE_COMPETITIONS[source], local)
        raise InputError(
            f"the {source} data are neither mounted under {KAGGLE_INPUT} nor at {runtime.shown(local)}; attach the "
            "competition on Kaggle, put its train.csv there, or set KAGGLE_API_TOKEN to a token from Kaggle's settings "
            "page and it is fetched."
        )
    hint = "" if "/" in source or "." in source else f" or a known source; {nearest(source, SOURCES)}"
    raise InputError(f"data={source!r} is not a file{hint or '; check the path.'}")


def here(source: str) -> Path | None:
    """The file behind a source if it lies on this machine already."""
    if source not in SOURCES:
        places = [Path(source), runtime.workspace() / source]
    elif source == "sample":
        places = [runtime.ROOT / "data" / "sample" / "train.csv"]
    else:
        mounted = KAGGLE_INPUT.glob(f"**/{KAGGLE_COMPETITIONS[source]}/train.csv") if source != "clear" else []
        places = [*sorted(mounted), runtime.workspace() / "data" / source / "train.csv"]
    return next((place for place in places if place.is_file()), None)


def sources() -> dict[str, str]:
    """What is to be had of each known source: where it lies, or how it would be fetched. Fetches nothing."""
    found = {}
    for source in SOURCES:
        if path := here(source):
            found[source] = f"here: {runtime.shown(path)}"
        elif source == "clear":
            found[source] = "can be downloaded, 4 MB, no account needed"
        else:
            try:
                token = kaggle_token()
                found[source] = f"can be fetched with {token}" if token else "needs Kaggle: attach it there, or a token"
            except InputError as error:
                found[source] = str(error)
    return found


_TOKEN_VARIABLES = ("KAGGLE_API_TOKEN", "KAGGLE_KEY")


def kaggle_token() -> str | None:
    """Where kagglehub will find a Kaggle token, never the token itself; None without one.

    It looks at the environment (KAGGLE_API_TOKEN may name a file), at ~/.kaggle (or KAGGLE_CONFIG_DIR) and at Colab's
    secrets. Raises InputError for a token file that others can read.
    """
    home, variables = Path.home() / ".kaggle", [name for name in _TOKEN_VARIABLES if os.environ.get(name)]
    candidates = [*(os.environ[name] for name in variables), home / "access_token", home / "access_token.txt",
                  Path(os.environ.get("KAGGLE_CONFIG_DIR") or home) / "kaggle.json"]  # fmt: skip
    files = [Path(name) for name in candidates if os.path.isfile(name)]
    for file in files:
        if os.name == "posix" and file.stat().st_mode & 0o077:
            raise InputError(f"others on this machine can read the Kaggle token in {file}; run: chmod 600 {file}")
    try:
        if get_kaggle_credentials() is None:
            return None
    except ValueError as error:  # a kaggle.json that is none; kagglehub's sentence names the file, not its content
        raise InputError(f"{error}; get a new one from Kaggle's settings page.") from None
    places = [*(f"the environment's {name}" for name in variables), *map(str, files)]
    return next(iter(places), "Colab's secret" if runtime.platform_name() == "colab" else "this session's token")


def download_competition(slug: str, target: Path) -> Path:
    """Fetch a Kaggle competition's train.csv with the user's token; ``target`` appears only when it is whole."""
    address = f"https://www.kaggle.com/competitions/{slug}"
    try:
        fetched = Path(kagglehub.competition_download(slug, path="train.csv"))
    except Exception as error:  # kagglehub passes on the errors of requests, of its own and of the file system
        status = getattr(getattr(error, "response", None), "status_code", None)
        advice = {
            401: "Kaggle refused the token; make a new one on its settings page",
            403: f"accept the competition's rules at {address}/rules, then try again",
        }.get(status, "check the connection and the token")
        reason = f"HTTP {status}" if status else type(error).__name__
        raise InputError(f"{slug} could not be fetched from Kaggle ({reason}): {advice}.") from None
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        os.replace(shutil.copy(fetched, folder), target)
    return target


def download_clear(target: Path, url: str = CLEAR_URL) -> Path:
    """Fetch the CLEAR corpus's spreadsheet and write it to ``target`` as a CSV in CommonLit's columns.

    Shows progress. ``target`` appears only when the whole spreadsheet has arrived and been read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        sheet = Path(folder) / "clear.xlsx"
        usual_timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(60)  # seconds without a byte; torch's download sets none of its own
        try:
            torch.hub.download_url_to_file(url, str(sheet), progress=runtime.progress_wanted())
        except OSError as error:  # urllib's errors are OSErrors
            raise InputError(
                f"the CLEAR corpus could not be downloaded from {url} ({error}); check the connection, "
                f'or use data="sample", which needs none.'
            ) from None
        finally:
            socket.setdefaulttimeout(usual_timeout)
        table = _read_excel(sheet, sheet_name="Data")
        if missing := sorted(set(CLEAR_COLUMNS) - set(table.columns)):
            raise InputError(f"the download from {url} lacks the column {missing[0]!r}; it is not the CLEAR corpus.")
        table = table.loc[table["ID"].astype(str).str.strip() != "", list(CLEAR_COLUMNS)].rename(columns=CLEAR_COLUMNS)
        converted = Path(folder) / "train.csv"
        table.to_csv(converted, index=False)
        os.replace(converted, target)
    return target


def read_table(path: Path) -> pd.DataFrame:
    """A CSV (UTF-8) or .xlsx file as a table of strings; nothing is taken for a missing value."""
    where = runtime.shown(path)
    if path.suffix == ".xlsx":
        return _read_excel(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file), [])
        table = pd.read_csv(path, encoding="utf-8-sig", dtype=str, keep_default_na=False)
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 text (byte {error.start}); save it as a UTF-8 CSV.") from None
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
        raise InputError(f"{where} cannot be read as a CSV table ({str(error).strip()}).") from None
    if not isinstance(table.index, pd.RangeIndex):  # what pandas makes of rows longer than the header
        raise InputError(f"{where} has rows with more fields than its header; quote the texts that hold commas.")
    _refuse_repeated(header, where)
    return table


def _read_excel(path: Path, **options) -> pd.DataFrame:
    where = runtime.shown(path)
    try:
        table = pd.read_excel(path, header=None, keep_default_na=False, **options)
    except Exception as error:  # openpyxl and zipfile raise a dozen kinds for a file that is not a spreadsheet
        raise InputError(f"{where} cannot be read as an .xlsx table ({error}).") from None
    header = [str(name) for name in table.iloc[0]] if len(table) else []
    _refuse_repeated(header, where)
    return table.iloc[1:].set_axis(header, axis=1).reset_index(drop=True)


def _refuse_repeated(header: list[str], where: str) -> None:
    if repeated := sorted({name for name in header if name and header.count(name) > 1}):
        raise InputError(f"{where} has the column {repeated[0]!r} {header.count(repeated[0])} times; keep one.")
