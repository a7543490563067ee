"""The settings of a run as a table: what was changed, what the preset sets, what is a default."""

import dataclasses

import pandas as pd

from utils.config import Config
from utils.reporting.style import left_aligned

#: The first field of each section of Config.
SECTIONS = {
    "preset": "data", "n_folds": "folds", "encoder": "model", "epochs": "optimization",
    "averaging": "averaging", "metric": "evaluation and running",
}  # fmt: skip
_YOURS, _PRESET, _DEFAULT = "changed here", "set by the preset", "default"


def settings_table(config: Config):
    """A row per section of Config, with every setting that holds a value: where it comes from, and which."""
    usual, rows, section = Config.make(config.preset), {}, ""
    for field in dataclasses.fields(Config):
        section = SECTIONS.get(field.name, section)
        value, default = getattr(config, field.name), field.default
        origin = _DEFAULT if value == default else _PRESET
        if value != getattr(usual, field.name):
            origin = _YOURS
        if value not in ("", ()):
            row = rows.setdefault(section, {_YOURS: [], _PRESET: [], _DEFAULT: []})
            row[origin].append(f"{field.name}\u00a0=\u00a0{_shown(value)}")
    table = pd.DataFrame.from_dict(rows, orient="index").map(", ".join)
    return left_aligned(table)


def _shown(value) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(value) if isinstance(value, tuple) else str(value)
