"""What is pushed to Kaggle: the code as a dataset, a kernel per notebook, of notebook 02 one per fold.

    python -m batch.kaggle --user you -p preset commonlit -p fold 0-4

fills output/kaggle/ with folders that ``kaggle kernels push -p FOLDER`` takes. Called for one fold after
another, it adds their kernels, and the later notebooks' kernels read the outputs of all folds staged so far.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
import papermill

from batch.grid import Job, expand
from batch.parameters import make_parser, parse_arguments
from utils.config import InputError
from utils.data.sources import KAGGLE_COMPETITIONS, SOURCES
from utils.machine import runtime
from utils.machine.files import write_json

FILES = ("LICENSE", "setup.sh", "constraints.txt", "requirements.txt", "requirements-lit.txt")
CODE = ("utils", "docs", "data/README.md", "data/sample", "data/aspects", "data/questions", *FILES)
PLAIN = ("01_setup", "05_swa_lr_demo")  # notebooks without parameters
READERS = ("03_swa_evaluation", "04_lit_interpretation", "06_submission")  # they read the folds' outputs
SESSION_HOURS = 11.0  # Kaggle ends a session after 12 hours, and then keeps nothing
DESCRIPTION = """\
Write the folders to push to Kaggle into output/kaggle/: the code as a dataset, and a kernel per
notebook; of notebook 02, a kernel per fold (fold 0-4 or 1,3; without fold, all folds)."""


def main() -> None:
    parser = make_parser("python -m batch.kaggle", "--user USER", DESCRIPTION)
    parser.add_argument("--user", required=True, help="the Kaggle user whose kernels these are")
    try:
        options, parameters = parse_arguments(parser)
        folder = runtime.workspace() / "output" / "kaggle"
        names = stage(options.user, parameters, folder)
    except InputError as error:
        sys.exit(f"InputError: {error}")
    print(
        f"{runtime.display_path(folder)} is ready: code, {', '.join(names)}. "
        "docs/colab_and_kaggle.md says how to push it."
    )


def stage(user: str, parameters: dict, folder: Path) -> list[str]:
    """Write the code's dataset and the kernels' folders into ``folder``; the kernels' names."""
    jobs = jobs_of_one_run(user, parameters)
    slug = KAGGLE_COMPETITIONS.get(jobs[0].config.data)
    data = {"competition_sources": [slug] if slug else []}
    write_code(folder / "code", user)
    names = list(PLAIN)
    for name in names:
        write_kernel(folder / name, name, {}, read_template(name, user))
    for job in jobs:
        metadata, fold = read_template("02_fold_training", user) | data, job.config.fold
        metadata["title"] += f" {fold}"  # Kaggle wants the id to be the title in lower case
        metadata["id"] += f"-{fold}"
        names.append(f"02_fold_training_{fold}")
        write_kernel(folder / names[-1], "02_fold_training", job.parameters, metadata)
    parameters = {k: v for k, v in jobs[0].parameters.items() if k not in ("fold", "time_limit_hours")}
    fold_kernels = staged_folds(folder, user, parameters)
    for name in READERS:
        metadata = read_template(name, user) | data
        metadata["kernel_sources"] += fold_kernels
        write_kernel(folder / name, name, parameters, metadata)
    return sorted([*names, *READERS])


def jobs_of_one_run(user: str, parameters: dict) -> list[Job]:
    """A job per fold. Raises InputError for what Kaggle could not run."""
    if not re.fullmatch(r"[\w-]+", user):
        raise InputError(f"{user!r} is not a Kaggle user name; use the one in your profile's address.")
    jobs = expand({"preset": "commonlit", "time_limit_hours": SESSION_HOURS, **parameters})
    if len({job.config.run_name for job in jobs}) > 1:
        raise InputError("these parameters make several runs; stage one run at a time.")
    data = jobs[0].config.data
    if data not in SOURCES and not data.startswith("/kaggle/input/"):
        hint = "make it a dataset there, and give its path in /kaggle/input/."
        raise InputError(f"data={data!r} is not on Kaggle; {hint}")
    return jobs


def write_code(folder: Path, user: str) -> None:
    """Write the dataset with the project's code."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in CODE:
        source, target = runtime.ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    write_json(folder / "dataset-metadata.json", read_template("code", user))


def staged_folds(folder: Path, user: str, parameters: dict) -> list[str]:
    """The ids of the run's fold kernels in ``folder``; another run's are removed, lest they be mixed."""
    ids = []
    for kernel in sorted(folder.glob("02_fold_training_*")):
        metadata = json.loads((kernel / "kernel-metadata.json").read_text(encoding="utf-8"))
        notebook = nbformat.read(kernel / metadata["code_file"], 4)
        same_run = parameters.items() <= notebook.metadata["papermill"]["parameters"].items()
        if same_run and metadata["id"].startswith(f"{user}/"):
            ids.append(metadata["id"])
        else:
            shutil.rmtree(kernel)
    return ids


def read_template(name: str, user: str) -> dict:
    path = next((runtime.ROOT / "kaggle" / name).glob("*-metadata.json"))
    return json.loads(path.read_text(encoding="utf-8").replace("KAGGLE_USERNAME", user))


def write_kernel(folder: Path, notebook: str, parameters: dict, metadata: dict) -> None:
    """Write a folder that the kaggle CLI pushes: the notebook with its parameters, and the metadata."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source, target = runtime.ROOT / "notebooks" / f"{notebook}.ipynb", folder / f"{notebook}.ipynb"
    if parameters:
        papermill.execute_notebook(source, target, parameters, prepare_only=True, progress_bar=False)
    else:
        shutil.copy(source, target)
    write_json(folder / "kernel-metadata.json", metadata)


if __name__ == "__main__":
    main()
