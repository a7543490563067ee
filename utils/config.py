"""Config: every setting of a run in one frozen dataclass, with presets, built from notebook parameters."""

import ast
import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: The first words of the notebooks' parameters cell and of the cell that papermill injects behind it.
PARAMETERS_MARK = "# Parameters"


class InputError(ValueError):
    """What the user gave cannot be used: one sentence says what is wrong, where, and what to do."""

    def _render_traceback_(self):
        """IPython shows this instead of a traceback: the sentence is all that helps."""
        return [f"{type(self).__name__}: {self}"]


def nearest(name: str, valid: typing.Iterable[str]) -> str:
    """End of an error sentence: the valid name closest to ``name``, or all of them."""
    valid = sorted(" ".join(str(option).split()) for option in valid)  # columns of a broken file may hold newlines
    close = difflib.get_close_matches(name, valid, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose one of: {', '.join(valid)}."


CHOICES = {
    "fold_by": ("kfold", "stratified", "group"),
    "pooling": ("cls_layers", "cls", "mean_layers", "attention"),
    "loss": ("rmse", "mse", "smooth_l1"),
    "optimizer": ("madgrad", "adamw", "fused_adam"),
    "param_groups": ("grouped", "layerwise", "none"),
    "schedule": ("cosine", "linear", "constant"),
    "precision": ("auto", "apex-O1", "apex-O2", "fp16", "bf16", "fp32"),
    "averaging": ("swa", "ema", "none"),
    "swa_anneal": ("cos", "linear"),
    "patience_on": ("raw", "averaged"),
    "weight_format": ("fp32", "bf16", "bfp8"),
}


@dataclass(frozen=True)
class Config:
    """The settings of a run. ``Config.make`` and ``Config.from_notebook`` build one from a preset and overrides.

    Off is 0 or "none". Epochs may be fractions. Raises InputError for a value that cannot be right.
    """

    preset: str = "demo"
    run: str = ""  # name of the folder under output_dir; empty: the preset's, and the data's if they are yours
    output_dir: str = "output"
    # data
    data: str = "sample"  # sample | clear | commonlit, or the path of a .csv or .xlsx
    id_column: str = "id"
    text_column: str = "excerpt"
    target_columns: tuple[str, ...] = ("target",)
    group_column: str = ""  # rows of one group stay in one fold (fold_by="group")
    max_rows: int = 0  # random rows to keep, for a quick try; 0: all
    # folds
    n_folds: int = 5
    fold: int = 0  # the held-out fold
    fold_by: str = "kfold"
    seed: int = 2021
    # model
    encoder: str = "minilm"  # minilm | tiny, a hub name, or a local folder
    max_length: int = 256  # tokens, special ones included
    pooling: str = "cls_layers"
    layer_dropout: float = 0.0  # on each layer's pooled state
    head_dropout: float = 0.5
    n_dropouts: int = 5  # samples of the head's dropout, averaged
    encoder_dropout: float = 0.0  # replaces every dropout rate inside the encoder; -1: keep the encoder's own
    reinit_layers: int = 0  # top encoder layers to initialise anew
    standardize: bool = True  # learn targets in units of the training rows' standard deviation
    # optimisation
    epochs: float = 5
    batch_size: int = 16
    eval_batch_size: int = 64
    accumulation_steps: int = 1  # micro-batches per optimizer step
    loss: str = "mse"
    optimizer: str = "adamw"
    lr: float = 5e-5
    weight_decay: float = 0.01  # none on biases, norms and the head
    eps: float = 1e-6
    param_groups: str = "layerwise"
    layer_decay: float = 0.9  # layerwise: each layer's rate over that of the layer above
    tier_factor: float = 2.6  # grouped: the thirds of the layers learn at lr/factor, lr, lr*factor
    head_lr_factor: float = 20.0  # everything outside the encoder learns at lr times this
    schedule: str = "cosine"
    warmup_ratio: float = 0.06  # share of all steps
    max_grad_norm: float = 1.0
    precision: str = "auto"
    weight_format: str = "fp32"  # bf16 or bfp8 (block floating point): weights are rounded to it after every step
    # averaging
    averaging: str = "swa"
    swa_start: float = 3.0  # epochs
    swa_lr_factor: float = 0.5  # the SWA rate of each group over that group's own peak rate
    swa_flat_lr: float = 0.0  # one SWA rate for all groups, as published; 0: off
    swa_anneal: str = "cos"
    swa_anneal_epochs: float = 0.5
    swa_every: int = 0  # steps between averaged weights; 0: one average an epoch
    ema_decay: float = 0.999
    snapshots: int = 0  # how many of the averaged weights to keep as files, evenly spaced, for pictures
    # evaluation and running
    eval_every: int = 0  # steps between evaluations; 0: one an epoch
    patience: int = 0  # evaluations without a better score before training stops; 0: never
    patience_on: str = "raw"  # whose score; averaged: counted from the first average on
    devices: int = 1  # GPUs that share each batch, a process each; 0: all (on a CPU, the number of processes)
    num_workers: int = 0  # loader processes; the data are already tokens, so 0 is fast
    save_every: int = 0  # steps between saved states, beside one at every evaluation; 0: off
    save_minutes: float = 0.0  # minutes between saved states; 0: off
    time_limit_hours: float = 0.0  # save and stop after this long; 0: never
    resume_from: str = ""  # an earlier output folder to go on from, such as a mounted one; nothing is written there
    retrain: bool = False  # begin anew even where there is a state or a finished fold

    def __post_init__(self):
        for name, valid in CHOICES.items():
            if getattr(self, name) not in valid:
                raise InputError(f"{name}={getattr(self, name)!r} is not known; {nearest(getattr(self, name), valid)}")
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                expected = f"{low:g} or more" if math.isinf(high) else f"from {low:g} to {high:g}"
                raise InputError(f"{name}={value:g} is out of range; it must be {expected}.")
        if self.fold >= self.n_folds:
            last = self.n_folds - 1
            raise InputError(f"fold={self.fold} does not exist; with n_folds={self.n_folds}, the last one is {last}.")
        if self.run in (".", "..") or "/" in self.run or "\\" in self.run or not self.run.isprintable():
            raise InputError(
                f"run={self.run!r} cannot name a folder; leave out slashes, output_dir says where it lies."
            )
        if not self.target_columns:
            raise InputError("target_columns is empty; name at least one column, several with commas between.")
        columns = [self.id_column, self.text_column, *self.target_columns]
        if repeated := [column for column in columns if columns.count(column) > 1 or column == "fold"]:
            raise InputError(f"column {repeated[0]!r} cannot be used: name each column once, and none of them fold.")
        if self.fold_by == "group" and not self.group_column:
            raise InputError('fold_by="group" needs group_column, the column whose values must not be split.')
        if self.averaging != "none" and self.swa_start >= self.epochs:
            raise InputError(
                f"swa_start={self.swa_start:g} leaves nothing to average in {self.epochs:g} epochs; "
                'set it lower, or averaging="none".'
            )

    @property
    def run_name(self) -> str:
        """The folder of the run; other data than the preset's make it another run."""
        usual = PRESETS[self.preset].get("data", Config.data)
        return self.run or (self.preset if self.data == usual else f"{self.preset}-{Path(self.data).stem}")

    @classmethod
    def make(cls, preset: str = "demo", **overrides) -> "Config":
        """The preset's Config with ``overrides`` on top; an override of None leaves the preset's value.

        Values are coerced to the field's type (``"a,b"`` to ``("a", "b")``, 3.0 to 3, ``"1e-4"`` to 0.0001).
        """
        if str(preset) not in PRESETS:
            raise InputError(f"preset={preset!r} is not known; {nearest(str(preset), PRESETS)}")
        types = {field.name: field.type for field in dataclasses.fields(cls)}
        if unknown := sorted(set(overrides) - set(types)):
            raise InputError(f"{unknown[0]!r} is not a parameter; {nearest(unknown[0], types)}")
        given = {name: _coerce(name, value, types[name]) for name, value in overrides.items() if value is not None}
        return cls(**{"preset": preset, **PRESETS[preset], **given})

    @classmethod
    def from_notebook(cls, namespace: Mapping, own: typing.Collection[str] = ()) -> "Config":
        """The Config that a notebook's parameters cell, and papermill's cell behind it, ask for.

        papermill only warns of a ``-p`` name that the notebook lacks, so that a typo in ``fold`` would train
        fold 0 five times. Here any assigned name that is not a Config field is refused.

        Args:
            namespace: the notebook's ``globals()``. IPython keeps the sources of the executed cells in its ``In``;
                only the names assigned in the newest parameters cell and in those injected after it count, so that
                running all cells twice works.
            own: further parameters that are the notebook's, and no settings of a run.
        """
        cells = namespace.get("In", [])
        first = max((i for i, cell in enumerate(cells) if cell.startswith(PARAMETERS_MARK + ":")), default=None)
        if first is None:
            raise InputError(f"no parameters cell has run; run the cell that begins with {PARAMETERS_MARK!r} first.")
        injected = [cell for cell in cells[first + 1 :] if cell.startswith(PARAMETERS_MARK)]
        names = [name for cell in [cells[first], *injected] for name in _assigned(cell)]
        overrides = {name: namespace[name] for name in names if name not in own}
        return cls.make(overrides.pop("preset", "demo"), **overrides)

    def differences(self, other: Mapping) -> list[str]:
        """Settings of ``other`` (an earlier ``to_dict``, through JSON) that would make this another training."""
        own = {name: list(value) if isinstance(value, tuple) else value for name, value in self.to_dict().items()}
        return [name for name in own if name not in MAY_CHANGE and own[name] != other.get(name)]

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


#: Fields that say where, how often or for how long: a training may go on under other ones. (``data`` is a path; whether
#: the rows are the same is told by their fingerprint.)
MAY_CHANGE = {"preset", "run", "output_dir", "data", "devices", "num_workers", "save_every", "save_minutes",
              "time_limit_hours", "resume_from", "retrain"}  # fmt: skip
_POSITIVE, _COUNT, _SHARE = (1e-12, math.inf), (1, math.inf), (0, 1)
_OFF_OR_MORE = (0, math.inf)
_LIMITS = {
    "n_folds": (2, math.inf), "fold": _OFF_OR_MORE, "seed": (0, 2**32 - 1), "max_rows": _OFF_OR_MORE,
    "max_length": (8, math.inf), "layer_dropout": _SHARE, "head_dropout": _SHARE, "n_dropouts": _COUNT,
    "encoder_dropout": (-1, 1), "reinit_layers": _OFF_OR_MORE, "epochs": _POSITIVE, "batch_size": _COUNT,
    "eval_batch_size": _COUNT, "accumulation_steps": _COUNT, "lr": _POSITIVE, "weight_decay": _OFF_OR_MORE,
    "eps": _POSITIVE, "layer_decay": (1e-12, 1), "tier_factor": (1, math.inf), "head_lr_factor": _POSITIVE,
    "warmup_ratio": _SHARE, "max_grad_norm": _OFF_OR_MORE, "swa_start": _OFF_OR_MORE, "swa_lr_factor": _POSITIVE,
    "swa_flat_lr": _OFF_OR_MORE, "swa_anneal_epochs": _OFF_OR_MORE, "swa_every": _OFF_OR_MORE, "ema_decay": _SHARE,
    "eval_every": _OFF_OR_MORE, "devices": _OFF_OR_MORE, "num_workers": _OFF_OR_MORE, "patience": _OFF_OR_MORE,
    "snapshots": _OFF_OR_MORE, "save_every": _OFF_OR_MORE,
    "save_minutes": _OFF_OR_MORE, "time_limit_hours": _OFF_OR_MORE,
}  # fmt: skip


def _assigned(source: str) -> list[str]:
    """Names that a cell's top-level statements assign."""
    names = []
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names


def _coerce(name: str, value, kind):
    """``value`` as the type of the field ``name``, or InputError."""
    try:
        if typing.get_origin(kind) is tuple:
            parts = value.split(",") if isinstance(value, str) else value
            return tuple(part.strip() for part in parts if part.strip())
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]
        if kind is int and (isinstance(value, bool) or float(value) != int(float(value))):
            raise ValueError
        if kind is float and not math.isfinite(float(value)):
            raise ValueError
        return int(float(value)) if kind is int else kind(value)
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError):
        wanted = {int: "a whole number", float: "a number", bool: "True or False"}
        expected = wanted.get(kind, "names with commas between")
        raise InputError(f"{name}={value!r} cannot be used; it must be {expected}.") from None


_MINILM = {"fold_by": "group", "pooling": "mean_layers", "swa_every": 20, "swa_anneal_epochs": 0.25}
_COMMONLIT_DATA = {"data": "commonlit", "fold_by": "kfold"}

#: Presets: values that differ from the defaults above. ``clear``'s rate and start of averaging were tuned (README);
#: ``commonlit``'s and ``feedback``'s come from public solutions and have not been measured by us;
#: ``commonlit_original``'s are published.
PRESETS: dict[str, dict] = {
    "tiny": {
        "encoder": "tiny", "max_length": 64, "epochs": 2, "swa_start": 1.0, "lr": 1e-3, "head_lr_factor": 1.0,
        "fold_by": "group", "group_column": "topic", "max_rows": 60, "snapshots": 3,
    },
    "demo": {**_MINILM, "group_column": "topic", "epochs": 5, "swa_start": 2.0, "swa_every": 2, "lr": 7e-5,
             "snapshots": 4},
    "clear": {**_MINILM, "data": "clear", "group_column": "url_legal", "epochs": 4, "swa_start": 1.5, "lr": 1e-4},
    "commonlit": {
        **_COMMONLIT_DATA, "encoder": "roberta-base", "pooling": "attention", "epochs": 4, "lr": 2e-5,
        "swa_start": 2.0, "swa_every": 20,
    },
    "commonlit_original": {
        **_COMMONLIT_DATA, "encoder": "roberta-base", "max_length": 128, "pooling": "cls_layers",
        "layer_dropout": 0.2, "encoder_dropout": -1, "standardize": False, "epochs": 10, "batch_size": 4,
        "eval_batch_size": 4, "loss": "rmse", "optimizer": "madgrad", "lr": 2e-5, "weight_decay": 1e-5,
        "param_groups": "grouped", "warmup_ratio": 0.03, "swa_start": 6.0, "swa_flat_lr": 1e-4,
        "swa_anneal_epochs": 3.0,
    },
    "feedback": {
        "data": "feedback", "id_column": "text_id", "text_column": "full_text",
        "target_columns": ("cohesion", "syntax", "vocabulary", "phraseology", "grammar", "conventions"),
        "encoder": "microsoft/deberta-v3-base", "max_length": 512, "pooling": "attention", "epochs": 4,
        "batch_size": 8, "loss": "smooth_l1", "lr": 2e-5, "swa_start": 2.0, "swa_every": 20,
    },
}  # fmt: skip
