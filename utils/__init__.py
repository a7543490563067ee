"""The helper package behind the notebooks: they narrate, it computes.

The names below are what most people need; everything else is imported from its own module. They are resolved
on first use, so that ``python -m utils environment`` runs even where torch is missing.
"""

import importlib

_FACE = {
    "Config": "utils.config",
    "load_table": "utils.tasks",
    "add_folds": "utils.tasks",
    "fit_fold": "utils.runs.fold",
    "open_run": "utils.runs.run",
    "load_model": "utils.runs.artifacts",
    "predict": "utils.release.predict",
}
__all__ = list(_FACE)


def __getattr__(name: str):
    if name not in _FACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_FACE[name]), name)
