"""What answers: an encoder, pooling over its layers or tokens, a head; and the losses.

The modules here import each other as ``from .name import X`` and nothing else of this project, and raise
ValueError, so that transformers can copy them into a saved folder. Each module of this folder is imported
here: a new pooling or loss registers itself by being defined. So are the models, with transformers: a saved
folder's code never runs in this package.
"""

import importlib
import pkgutil

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
)

from utils.modeling import model, portable

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

AutoConfig.register(model.TextModelConfig.model_type, model.TextModelConfig)
AutoModel.register(model.TextModelConfig, model.TextModel)
AutoModelForSequenceClassification.register(
    model.TextModelConfig, portable.TextModelForSequenceClassification
)
AutoModelForQuestionAnswering.register(model.TextModelConfig, portable.TextModelForQuestionAnswering)
