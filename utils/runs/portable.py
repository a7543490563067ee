"""What makes a folder of weights readable in other projects: the model's code, and transformers' names."""

import copy
import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.dynamic_module_utils import get_relative_import_files

from utils.config import Config
from utils.modeling import portable
from utils.modeling.heads import HeadConfig
from utils.modeling.losses import LOSSES
from utils.modeling.model import TextModel, TextModelConfig
from utils.modeling.native import NATIVE, from_whole, read_config, to_whole
from utils.modeling.pooling import POOLINGS
from utils.tasks import Task, make_task

#: The module of a folder that imports all others. transformers copies what it imports, and nothing else.
ENTRY = "modeling_text_model"
SEQUENCE, QUESTION = "ForSequenceClassification", "ForQuestionAnswering"


def task_of(model_config: TextModelConfig) -> Task:
    """The task that a saved model was trained for."""
    task = make_task(Config.make(**model_config.task))
    task.restore(HeadConfig(**model_config.head))
    return task


def with_names(config: TextModelConfig) -> TextModelConfig:
    """A copy of ``config`` with the classes of its code, and its outputs' names, as transformers has them.

    ``AutoModel`` reads any model; of pairs, and of several targets with classes, nothing else does.
    """
    config, kind = copy.deepcopy(config), ""
    if config.task:
        task = task_of(config)
        kind = kind_of(task)
        if task.problem_type and not _has_parts(task):
            by_class = task.problem_type == "single_label_classification"
            labels = getattr(task, "labels", [task.outputs])[0] if by_class else task.outputs
            config.problem_type = task.problem_type
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: number for number, label in enumerate(labels)}
    names = {"AutoConfig": "TextModelConfig", "AutoModel": "TextModel"}
    names |= {f"AutoModel{kind}": f"TextModel{kind}"} if kind else {}
    if hasattr(config, "auto_map"):
        del config.auto_map
    if classes_of(config):
        config.auto_map = {auto: f"{ENTRY}.{name}" for auto, name in names.items()}
    return config


def kind_of(task: Task) -> str:
    """How transformers' class is called that answers what the task asks; "" if there is none."""
    if task.per_token:
        return QUESTION if task.outputs == ("start", "end") else ""
    plain = task.problem_type and not _has_parts(task) and not task.config.pair_column
    return SEQUENCE if plain else ""


def _has_parts(task: Task) -> bool:
    """Whether several targets have classes of their own."""
    return task.problem_type.startswith("single") and len(task.config.target_columns) > 1


def classes_of(config: TextModelConfig) -> list[type]:
    """The classes that a model's code must have; none where it is of transformers' own class, or one of them
    is not of ``utils.modeling``.
    """
    if config.pooling == NATIVE:
        return []
    loss = LOSSES.get(config.task.get("loss", ""))
    used = [TextModel, TextModelConfig, POOLINGS[config.pooling], *filter(None, [loss])]
    used += [portable.TextModelForSequenceClassification, portable.TextModelForQuestionAnswering]
    package = portable.__name__.rpartition(".")[0]
    return used if all(one.__module__.rpartition(".")[0] == package for one in used) else []


def write_code(config: TextModelConfig, folder: Path) -> None:
    """Copy the modules of ``utils.modeling`` that a model needs, and write the one that imports them."""
    if not (classes := classes_of(config)):
        return
    files = {str(sys.modules[one.__module__].__file__) for one in classes}
    lines = [f'"""{TextModel.__name__}: load it with from_pretrained(folder, trust_remote_code=True)."""', ""]
    for path in sorted(map(Path, files.union(*map(get_relative_import_files, files)))):
        shutil.copyfile(path, folder / path.name)
        module = sys.modules[f"{portable.__name__.rpartition('.')[0]}.{path.stem}"]
        names = [
            name for name, one in vars(module).items() if getattr(one, "__module__", "") == module.__name__
        ]
        # The first releases of transformers 5 copy what this module imports, and not what that imports.
        lines.append(f"from .{path.stem} import {', '.join(names)}")
    (folder / f"{ENTRY}.py").write_text("\n".join(lines) + "\n", encoding="utf-8")


def to_save(
    config: TextModelConfig, weights: dict[str, torch.Tensor]
) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """A model to be saved, with a TextModel's weights, and these as they are when it is loaded again.

    It is apart from the model being trained, which may be wrapped, patched or in float16. Nothing is copied.
    """
    if config.pooling == NATIVE:
        whole = to_whole(config, weights)
        return whole, from_whole(whole)
    with torch.device("meta"):
        model = TextModel(config)
    model.load_state_dict(weights, assign=True)
    return model, weights


def read_model(folder: Path, **options) -> TextModel:
    """A folder of weights, of either kind, as a TextModel in eval mode. ``options``: of from_pretrained."""
    options = {"use_safetensors": True, "dtype": torch.float32, "trust_remote_code": False, **options}
    config = read_config(folder)
    if config.pooling != NATIVE:
        return TextModel.from_pretrained(folder, **options).eval()
    whole = AutoModelForSequenceClassification.from_pretrained(folder, **options)
    model = TextModel(config)
    model.load_state_dict(from_whole(whole))
    model.encoder.set_attn_implementation(whole.config._attn_implementation)
    return model.eval()
