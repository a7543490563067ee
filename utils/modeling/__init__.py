"""What answers: an encoder, pooling over its layers or tokens, a head; and the losses.

The modules here import each other as ``from .name import X`` and nothing else of this project, and raise
ValueError, so that transformers can copy them into a saved folder. Each module of this folder is imported
here: a new pooling or loss registers itself by being defined.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
