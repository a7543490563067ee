"""What is pushed to Kaggle: the code as a dataset, and a kernel for each notebook, of the training one a fold.

    python -m utils.kaggle_kernels --user you --preset commonlit --fold 0-4

fills output/kaggle/ with folders that ``kaggle kernels push -p FOLDER`` takes. Called for one fold after another, it
adds their kernels, and the later notebooks' kernels read the outputs of all that are there.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
import papermill

from utils import grid, runtime
from utils.checkpoint import write_json
from utils.config import InputError
from utils.grid import Job
from utils.sources import KAGGLE_COMPETITIONS, SOURCES

CODE = ("utils", "docs", "data/README.md", "data/sample", "setup.sh", "constraints.txt", "requirements.txt",
        "requirements-lit.txt")  # fmt: skip
READERS = ("03_swa_evaluation", "04_lit_interpretation", "06_submission")  # of the folds' outputs
SESSION_HOURS = 11.0  # Kaggle ends a session after 12, and then keeps nothing


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m utils.kaggle_kernels", allow_abbrev=False, usage="%(prog)s --user USER [--NAME VALUE ...]",
        description="Write what is pushed to Kaggle into output/kaggle/. --NAME sets any field of Config.",
    )  # fmt: skip
    parser.add_argument("--user", required=True, help="whose kernels these are, on Kaggle")
    known, rest = parser.parse_known_args()
    try:
        folder = runtime.workspace() / "output" / "kaggle"
        folders = stage(known.user, grid.read_words(rest), folder)
    except InputError as error:
        sys.exit(f"InputError: {error}")
    print(f"{runtime.shown(folder)} is ready: code, {', '.join(folders)}. The README says how to push it.")


def stage(user: str, given: dict, folder: Path) -> list[str]:
    """Write the code's dataset and the kernels' folders; their names."""
    if not re.fullmatch(r"[\w-]+", user):
        raise InputError(f"{user!r} is no name of a Kaggle user; take the one of your profile's address.")
    jobs = grid.expand({"preset": "commonlit", "time_limit_hours": SESSION_HOURS, **given})
    if len({job.config.run_name for job in jobs}) > 1:
        raise InputError("these parameters make several runs; stage one run at a time.")
    data = jobs[0].config.data
    if data not in SOURCES and not data.startswith("/kaggle/input/"):
        raise InputError(
            f"data={data!r} is not on Kaggle; make it a dataset there, and give its path in /kaggle/input/."
        )
    shutil.rmtree(folder / "code", ignore_errors=True)
    for name in CODE:
        source, target = runtime.ROOT / name, folder / "code" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    about = read_template("code", user)
    write_json(folder / "code" / "dataset-metadata.json", about)

    names = ["01_setup", "05_swa_lr_demo"]
    for name in names:
        write_kernel(folder / name, name, {}, read_template(name, user))
    for job in jobs:
        names.append(f"02_fold_training_{job.config.fold}")
        write_kernel(folder / names[-1], "02_fold_training", job.given, fold_template(job, user))
    parameters = {name: value for name, value in jobs[0].given.items() if name not in ("fold", "time_limit_hours")}
    trained = []
    for place in sorted(folder.glob("02_fold_training_*")):
        about = json.loads((place / "kernel-metadata.json").read_text(encoding="utf-8"))
        given = nbformat.read(place / about["code_file"], 4).metadata["papermill"]["parameters"]
        if about["id"].startswith(f"{user}/") and parameters.items() <= given.items():
            trained.append(about["id"])
        else:
            shutil.rmtree(place)  # of another run, whose folds the readers must not mix with this one's
    for name in READERS:
        about = read_template(name, user) | competition(jobs[0])
        about["kernel_sources"] = [*about["kernel_sources"], *trained]
        write_kernel(folder / name, name, parameters, about)
    return sorted([*names, *READERS])


def read_template(name: str, user: str) -> dict:
    path = next((runtime.ROOT / "kaggle" / name).glob("*-metadata.json"))
    return json.loads(path.read_text(encoding="utf-8").replace("KAGGLE_USERNAME", user))


def fold_template(job: Job, user: str) -> dict:
    """The metadata of a fold's own kernel; Kaggle wants the id to be the title in small letters."""
    about, fold = read_template("02_fold_training", user), job.config.fold
    about["title"] += f" {fold}"
    about["id"] += f"-{fold}"
    return about | competition(job)


def competition(job: Job) -> dict:
    """The competition whose data the run reads, if it does."""
    slug = KAGGLE_COMPETITIONS.get(job.config.data)
    return {"competition_sources": [slug] if slug else []}


def write_kernel(folder: Path, notebook: str, parameters: dict, about: dict) -> None:
    """A folder that the kaggle CLI pushes: the notebook with its parameters, and the metadata."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source, target = runtime.ROOT / "notebooks" / f"{notebook}.ipynb", folder / f"{notebook}.ipynb"
    if parameters:
        papermill.execute_notebook(source, target, parameters, prepare_only=True, progress_bar=False)
    else:
        shutil.copy(source, target)
    write_json(folder / "kernel-metadata.json", about)


if __name__ == "__main__":
    main()
