"""Config: every setting of a run in one frozen dataclass, with presets, built from notebook parameters."""

import ast
import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from utils.errors import InputError, check_choice, nearest
from utils.fields import SMALLEST, check_field, choice, coerce, number
from utils.presets import PRESETS

#: How the notebooks' parameters cell begins, and the cell that papermill injects after it.
PARAMETERS_MARK = "# Parameters"
GROUPED = ("group", "stratified_group")  # values of fold_by that keep the groups of group_column together


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of a run: a preset with overrides, by ``Config.make`` or ``Config.from_notebook``.

    0 or "none" switches a setting off; epochs may be fractional. Raises InputError for an impossible value.
    ``task``, ``pooling``, ``loss`` and ``metric`` are open sets, which ``utils.tasks.make_task`` checks.
    """

    preset: str = "demo"
    run: str = ""  # folder under output_dir; empty: the preset's name, plus the data's when data is changed
    output_dir: str = "output"
    # data
    # sample | aspects | questions | clear | vader | commonlit | feedback, or a file: CSV, .xlsx or JSON
    data: str = "sample"
    # binary | multiclass | multilabel | ordinal | aspects | spans, or auto: as the targets are
    task: str = "regression"
    id_column: str = "id"
    text_column: str = "excerpt"
    pair_column: str = ""  # a second text of each row: a prompt, an aspect, the question of an answer span
    target_columns: tuple[str, ...] = ("target",)
    labels: tuple[str, ...] = ()  # the classes, in order; empty: those of the table, in their natural order
    group_column: str = ""  # rows with the same value stay in one fold, where folds are by group
    max_rows: int = number(0)  # random rows to keep, for a quick try; 0: all
    # folds
    n_folds: int = number(5, least=2)
    fold: int = number(0)  # the held-out fold
    # column: the table's own, named fold
    fold_by: str = choice("kfold", "stratified", "group", "stratified_group", "column")
    exact_copies: str = choice("group", "split")  # group: rows with the same text stay in one fold
    near_copies: str = choice("split", "group")  # and those with nearly the same (utils/data/copies.py)
    seed: int = number(2021, most=2**32 - 1)
    # model
    encoder: str = "minilm"  # minilm | tiny, a name on the Hugging Face hub, or a local folder
    max_length: int = number(256, least=8)  # tokens, special tokens included
    pair_truncation: str = choice("longest_first", "only_second")  # which of two texts is cut to max_length
    stride: int = number(64)  # spans: tokens that two windows of a long text share; half a window at most
    max_answer_tokens: int = number(30, least=1)  # spans: the longest answer
    no_answer: str = choice("auto", "possible", "never")  # spans: auto: possible where a row has none
    pooling: str = "cls_layers"
    local_window: int = number(
        3
    )  # lcf poolings, lca, lsa: how many tokens on either side of an aspect are near
    local_loss_share: float = number(
        0.3, most=0.99
    )  # lca: share of the loss that tells these tokens from others
    layer_dropout: float = number(0.0, most=1)  # on the pooled state of each layer
    head_dropout: float = number(0.5, most=1)
    n_dropouts: int = number(5, least=1)  # samples of the head's dropout, averaged
    encoder_dropout: float = number(0.0, least=-1, most=1)  # of all the encoder's dropouts; -1: its own rates
    reinit_layers: int = number(0)  # top encoder layers to reinitialize
    standardize: bool = True  # learn targets in units of the training rows' standard deviation
    # optimization
    epochs: float = number(5, least=SMALLEST)
    batch_size: int = number(16, least=1)
    eval_batch_size: int = number(64, least=1)
    accumulation_steps: int = number(1, least=1)  # micro-batches per optimizer step
    loss: str = "auto"  # auto: the task's own
    class_weights: tuple[str, ...] = ()  # balanced, or numbers in the order of the labels
    pos_weight: tuple[str, ...] = ()  # auto (negatives over positives), or a number per target
    label_smoothing: float = number(0.0, most=0.99)
    smoothing: str = choice("uniform", "others")  # over all classes, as in torch; over the other ones
    focal_gamma: float = number(2.0)
    optimizer: str = choice("adamw", "madgrad", "fused_adam", "adam", "sgd")
    lr: float = number(5e-5, least=SMALLEST)
    weight_decay: float = number(0.01)  # none on biases, norms and the head; L2 in madgrad, adam and sgd
    eps: float = number(1e-6, least=SMALLEST)  # sgd has none
    param_groups: str = choice("layerwise", "grouped", "none")
    layer_decay: float = number(0.9, least=SMALLEST, most=1)  # layerwise: rate relative to the layer above
    tier_factor: float = number(2.6, least=1)  # grouped: thirds of the layers get lr/factor, lr, lr*factor
    head_lr_factor: float = number(20.0, least=SMALLEST)  # multiplies lr outside the encoder
    schedule: str = choice("cosine", "linear", "constant", "step", "plateau", "one_cycle")
    warmup_ratio: float = number(0.06, most=1)  # share of all steps; one_cycle climbs for a tenth of them
    min_lr_ratio: float = number(0.0, most=1, schedules=("cosine", "plateau"))  # floor: a share of each peak
    lr_factor: float = number(0.5, least=SMALLEST, most=0.99, schedules=("step", "plateau"))  # per reduction
    lr_step_epochs: float = number(1.0, least=SMALLEST, schedules=("step",))  # between two reductions
    # evaluations without a better score of the raw weights; none count once SWA's phase has begun
    lr_patience: int = number(2, least=1, schedules=("plateau",))
    max_grad_norm: float = number(1.0)
    precision: str = choice("auto", "apex-O1", "apex-O2", "fp16", "bf16", "fp32")
    # bf16 or bfp8 (block floating point): weights are rounded to it after every step
    weight_format: str = choice("fp32", "bf16", "bfp8")
    compile: str = choice("off", "auto", "on", "graphs")  # torch.compile, and CUDA graphs for small batches
    # averaging
    averaging: str = choice("swa", "ema", "none")
    swa_start: float = number(3.0)  # epochs
    swa_lr_factor: float = number(0.5, least=SMALLEST)  # each group's SWA rate relative to its own peak rate
    swa_flat_lr: float = number(0.0)  # one SWA rate for all groups, as published; 0: off
    swa_anneal: str = choice("cos", "linear")
    swa_anneal_epochs: float = number(0.5)
    swa_every: int = number(0)  # steps between averaged weights; 0: once per epoch
    ema_decay: float = number(0.999, most=1)
    snapshots: int = number(0)  # how many of the averaged weights to keep as files, evenly spaced, for plots
    # evaluation and running
    metric: str = ""  # the score that decides which weights are best; empty: the task's first
    eval_every: int = number(0)  # steps between evaluations; 0: once per epoch
    eval_from: float = number(0.0)  # epochs before the first of these; one always follows the last step
    patience: int = number(0)  # evaluations without a better score before training stops; 0: never
    patience_on: str = choice("raw", "averaged")  # whose score; averaged: counted from the first average on
    samples: int = number(4)  # held-out rows whose predictions are shown at each evaluation; 0: none
    samples_every: int = number(0)  # steps between showing them at other times, too; 0: at evaluations only
    devices: int = number(1)  # GPUs that share each batch, 0: all; or processes that share it on a CPU
    num_workers: int = number(0)  # loader processes; texts are tokenized in advance, so 0 is fast
    save_every: int = number(0)  # steps between checkpoints, besides one at every evaluation; 0: off
    save_minutes: float = number(0.0)  # minutes between checkpoints; 0: off
    time_limit_hours: float = number(0.0)  # save a checkpoint and stop after this long; 0: never
    resume_from: str = ""  # earlier output folder to resume from, such as a mounted one; it is only read
    retrain: bool = False  # start over even where a checkpoint or a finished fold exists

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check_field(field, getattr(self, field.name), self.schedule)
        self._check_columns()
        if self.fold >= self.n_folds:
            last = f"with n_folds={self.n_folds}, the last one is {self.n_folds - 1}"
            raise InputError(f"fold={self.fold} does not exist; {last}.")
        if self.run in (".", "..") or "/" in self.run or "\\" in self.run or not self.run.isprintable():
            raise InputError(
                f"run={self.run!r} cannot name a folder; leave out slashes, output_dir sets its location."
            )
        if self.samples_every and not self.samples:
            what = f"samples_every={self.samples_every}"
            raise InputError(f"{what} does nothing with samples=0; leave it out, or set samples.")
        if self.averaging != "none" and self.swa_start >= self.epochs:
            raise InputError(
                f"swa_start={self.swa_start:g} leaves nothing to average in {self.epochs:g} epochs; "
                'set it lower, or averaging="none".'
            )
        if self.eval_from > self.epochs:
            raise InputError(
                f"eval_from={self.eval_from:g} is after all {self.epochs:g} epochs; set it lower."
            )

    def _check_columns(self) -> None:
        if not self.target_columns:
            raise InputError("target_columns is empty; name one column, or several separated by commas.")
        columns = [self.id_column, *self.text_columns, *self.target_columns]
        if unusable := [column for column in columns if columns.count(column) > 1 or column == "fold"]:
            raise InputError(
                f"column {unusable[0]!r} cannot be used: name each column once, and none of them fold."
            )
        if self.fold_by in GROUPED and not self.group_column:
            needs = "needs group_column, the column whose values must not be split"
            raise InputError(f'fold_by="{self.fold_by}" {needs}.')
        if self.pair_truncation != "longest_first" and not self.pair_column:
            raise InputError(
                f"pair_truncation={self.pair_truncation} does nothing without a second text; set pair_column "
                "or leave it out."
            )

    @property
    def text_columns(self) -> list[str]:
        """The column of texts, and that of second texts where there is one."""
        return [self.text_column, *filter(None, [self.pair_column])]

    @property
    def run_name(self) -> str:
        """The run's folder name; data other than the preset's make it another run."""
        usual = PRESETS[self.preset].get("data", Config.data)
        return self.run or (self.preset if self.data == usual else f"{self.preset}-{Path(self.data).stem}")

    @classmethod
    def make(cls, /, preset: str = "demo", **overrides) -> "Config":
        """The preset's Config with ``overrides`` applied.

        Values are coerced to the field's type (``"a,b"`` to ``("a", "b")``, 3.0 to 3, ``"1e-4"`` to 0.0001),
        None to "none" where that is a choice.
        """
        check_choice("preset", preset, PRESETS)
        check_names(overrides)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        values = {name: coerce(fields[name], value) for name, value in overrides.items()}
        return cls(**{"preset": preset, **PRESETS[preset], **values})

    @classmethod
    def from_notebook(cls, namespace: Mapping, extra: Collection[str] = ()) -> "Config":
        """The Config that a notebook's parameters cell, and the cell papermill injects after it, ask for.

        papermill only warns about a ``-p`` name that the notebook does not define, so a typo in ``fold``
        would train fold 0 five times. Here any assigned name that is not a field of Config is an error.

        Args:
            namespace: the notebook's ``globals()``, where IPython keeps the executed cells' source as ``In``.
                Only the latest parameters cell and cells injected after it count: cells may run twice. A None
                of the former leaves the preset's value.
            extra: names of further parameters, which belong to the notebook and are not settings of a run.
        """
        cells = namespace.get("In", [])
        starts = [i for i, cell in enumerate(cells) if cell.startswith(PARAMETERS_MARK + ":")]
        if not starts:
            raise InputError(
                f"no parameters cell has run; run the cell that begins with {PARAMETERS_MARK!r} first."
            )
        latest, *later = cells[starts[-1] :]
        injected = [cell for cell in later if cell.startswith(PARAMETERS_MARK)]
        given = [name for cell in injected for name in _assigned_names(cell)]
        names = [name for name in _assigned_names(latest) if namespace[name] is not None] + given
        overrides = {name: namespace[name] for name in names if name not in extra}
        return cls.make(overrides.pop("preset", "demo"), **overrides)

    def differences(self, other: Mapping) -> list[str]:
        """Settings that make ``other`` (an earlier ``to_dict``, read from JSON) a different training.

        One of an older version lacks the fields that came later: it was trained with what are their defaults.
        """
        settings, usual = (json.loads(json.dumps(config.to_dict())) for config in (self, Config()))
        earlier = usual | dict(other)  # JSON has lists, no tuples
        return [name for name in settings if name not in MAY_CHANGE and settings[name] != earlier[name]]

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


#: Fields that a resumed training may change: they say where, how often, for how long, and what is shown. (The
#: fingerprint tells whether the rows that ``data`` names, and the folds that copies decide, are the same.)
_DATA = {"data", "exact_copies", "near_copies"}
_EXECUTION = {"devices", "num_workers", "save_every", "save_minutes", "time_limit_hours", "retrain"}
_SHOWN = {"samples", "samples_every"}
MAY_CHANGE = _DATA | _EXECUTION | _SHOWN | {"preset", "run", "output_dir", "resume_from", "compile"}


def check_names(names: Iterable[str]) -> None:
    """Raise InputError for a name that is not a field of Config, suggesting the nearest one."""
    known = [field.name for field in dataclasses.fields(Config)]
    if unknown := sorted(set(names) - set(known)):
        raise InputError(f"{unknown[0]!r} is not a parameter; {nearest(unknown[0], known)}")


def _assigned_names(source: str) -> list[str]:
    """Names that a cell's top-level statements assign."""
    names = []
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names
