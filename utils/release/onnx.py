"""ONNX: exporting weights, so that onnxruntime alone can predict with them, and reading them again."""

import contextlib
import importlib
import importlib.metadata
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from utils.config import InputError
from utils.machine import runtime
from utils.machine.files import atomic_folder, short_reason, write_json
from utils.modeling.model import TextModel
from utils.modeling.native import read_config
from utils.modeling.portable import scores
from utils.release import CARD, FACTS, MODEL, SCRIPT
from utils.release.card import card
from utils.runs.artifacts import load_model
from utils.runs.portable import task_of, with_names
from utils.runs.seal import seal, verify

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
#: By how much outputs may differ from torch's in float32, in units of the outputs' scale.
TOLERANCE = 1e-4


class Graph(nn.Module):
    """What is exported: a TextModel's logits, and what they mean, from inputs in a fixed order."""

    def __init__(self, model: TextModel, names: list[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = dict(zip(self.names, values, strict=True))
        extras = {name: inputs.pop(name) for name in self.model.pooling.extras}
        logits = self.model(**inputs, extras=extras)["logits"]
        return logits, scores(self.model.config, logits)


class OnnxModel(nn.Module):
    """An exported model, which ``predict_batches`` calls as it calls a TextModel."""

    def __init__(self, folder: Path):
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(
            str(folder / MODEL), options, providers=["CPUExecutionProvider"]
        )
        self.config = read_config(folder)

    def forward(self, extras: dict[str, torch.Tensor] | None = None, **inputs) -> dict[str, torch.Tensor]:
        values = inputs | (extras or {})
        names = [one.name for one in self.session.get_inputs()]
        (logits,) = self.session.run(["logits"], {name: values[name].cpu().numpy() for name in names})
        return {"logits": torch.from_numpy(logits)}


def load(folder: Path | str) -> tuple[TextModel | OnnxModel, PreTrainedTokenizerBase]:
    """The model of a folder of weights or of an exported one, and its tokenizer. Raises InputError."""
    folder = Path(folder)
    if not (folder / MODEL).is_file():
        return load_model(folder)
    verify(folder)
    with readable_errors("it is whole, and cannot be loaded here", folder):
        return OnnxModel(folder), AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def export(folder: Path | str, target: Path | str | None = None, int8: bool = False) -> Path:
    """Write a folder with the model as ONNX, its tokenizer, facts, and a script that predicts with it.

    Args:
        folder: of weights, such as ``output/<run>/fold-<k>/averaged``.
        target: the new folder; None: beside ``folder``, with "-onnx" or "-onnx-int8" in its name.
        int8: whether weights are rounded to eight bits, and inputs of products as they come.

    Returns:
        ``target``. Raises InputError, and writes nothing, without the packages of requirements-export.txt,
        for a model that cannot be exported, and for one whose outputs are not torch's within ``TOLERANCE``.
    """
    folder = Path(folder)
    target = Path(target or folder.with_name(f"{folder.resolve().name}-onnx{'-int8' * int8}"))
    if target.exists() and not (target / FACTS).is_file():
        raise InputError(f"{runtime.display_path(target)} exists and is no export; name another: --output.")
    model, tokenizer = load_model(folder, attn_implementation="eager")
    model.config = with_names(model.config)
    model.config.auto_map = {}  # the code stays where the weights are
    with readable_errors("cannot be exported", folder), _quiet():
        for name in PACKAGES:
            importlib.import_module(name)  # at once, and not after minutes
        with atomic_folder(target) as new:
            names = write_graph(model, tokenizer, new / MODEL)
            difference = _difference(model, tokenizer, new)
            if not difference <= TOLERANCE:
                raise InputError(
                    f"{runtime.display_path(folder)} cannot be exported: its outputs in ONNX differ from "
                    f"torch's by {difference:.1g}; predict with the weights themselves."
                )
            if int8:
                _quantize(new / MODEL)
                difference = _difference(model, tokenizer, new)
            _write_rest(model, tokenizer, new, {"int8": int8, "inputs": names, "difference": difference})
            seal(new)  # but for the card, which its owner may edit
            (new / CARD).write_text(card(new, target.name, folder), encoding="utf-8")
    return target


def read_facts(folder: Path) -> dict:
    """export.json: inputs, names of the scores, opset, versions, and how far outputs are from torch's."""
    return json.loads((folder / FACTS).read_text(encoding="utf-8"))


def write_graph(model: TextModel, tokenizer: PreTrainedTokenizerBase, path: Path) -> list[str]:
    """Export the model with batch and length left open; the names of its inputs."""
    batch = example_batch(model, tokenizer, [7, 5])
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        Graph(model, list(batch)).eval(),
        tuple(batch.values()),
        dynamo=True,
        input_names=list(batch),
        output_names=["logits", "scores"],
        dynamic_shapes=(tuple({0: dynamic, 1: dynamic} for _ in batch),),
        verbose=False,
    )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # traces of the stack, with this machine's paths
    program.save(str(path))
    return list(batch)


def example_batch(model: TextModel, tokenizer, lengths: list[int]) -> dict[str, torch.Tensor]:
    """Random tokens of texts of some lengths, padded, each (batch, tokens): what the model takes."""
    generator, shape = torch.Generator().manual_seed(0), (len(lengths), max(lengths))
    mask = (torch.arange(shape[1]) < torch.tensor(lengths).unsqueeze(1)).long()
    if tokenizer.padding_side == "left":
        mask = mask.flip(1)
    ids = torch.randint(len(tokenizer), shape, generator=generator)
    inputs = {"input_ids": ids.where(mask > 0, tokenizer.pad_token_id), "attention_mask": mask}
    if (
        "token_type_ids" in tokenizer.model_input_names
        and getattr(model.config.encoder, "type_vocab_size", 2) > 1
    ):
        inputs["token_type_ids"] = torch.zeros_like(ids)
    near = (mask * (1 + torch.arange(shape[1]) % 5)).int()  # distances from an aspect, say
    return inputs | dict.fromkeys(model.pooling.extras, near)


@torch.no_grad()
def _difference(model: TextModel, tokenizer, folder: Path) -> float:
    """The largest difference of outputs, in units of their scale, for short, long and padded texts."""
    model.config.save_pretrained(folder)
    exported, longest = OnnxModel(folder), tokenizer.model_max_length
    scale = getattr(model.head, "scale", torch.ones(1))
    differences = []
    for lengths in ([3], [longest], [longest, longest // 2, 4]):
        batch = example_batch(model, tokenizer, lengths)
        extras = {name: batch.pop(name) for name in model.pooling.extras}
        one, other = (m(**batch, extras=extras)["logits"] for m in (model, exported))
        apart = (one - other).abs() / scale
        differences.append((apart[batch["attention_mask"] > 0] if apart.dim() == 3 else apart).max())
    return float(torch.stack(differences).max())


def _quantize(path: Path) -> None:
    """Round weights to eight bits, channel by channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.rename(path.with_name("whole.onnx"))
    # With seven bits products cannot overflow on processors without VNNI.
    quantize_dynamic(whole, path, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    for left in path.parent.glob("whole.onnx*"):
        left.unlink()


def _write_rest(model: TextModel, tokenizer: PreTrainedTokenizerBase, folder: Path, facts: dict) -> None:
    """The tokenizer, the facts, and where texts alone are read, the script."""
    import onnx

    task = task_of(model.config)
    opset = {one.domain or "ai.onnx": one.version for one in onnx.load(folder / MODEL).opset_import}
    versions = {name: importlib.metadata.version(name) for name in (*PACKAGES, "torch", "transformers")}
    padding = {
        "pad_id": tokenizer.pad_token_id,
        "pad_token": tokenizer.pad_token,
        "direction": tokenizer.padding_side,
    }
    names = task.columns("") if model.config.head.get("labels") else task.outputs
    facts = {"format": "onnx", **facts, "opset": opset, "versions": versions, "names": list(names)}
    write_json(folder / FACTS, facts | {"max_length": tokenizer.model_max_length, "padding": padding})
    tokenizer.save_pretrained(folder)
    texts_alone = not (task.per_token or task.config.pair_column)
    if texts_alone and (folder / "tokenizer.json").is_file():
        (folder / SCRIPT).write_bytes(Path(__file__).with_name("onnx_script.py").read_bytes())


@contextlib.contextmanager
def readable_errors(problem: str, folder: Path) -> Iterator[None]:
    """What goes wrong with onnx and onnxruntime, as an InputError with a way out."""
    try:
        yield
    except InputError:
        raise
    except ModuleNotFoundError as error:
        raise InputError(
            f"ONNX needs {error.name}; run: pip install -r requirements-export.txt -c constraints.txt"
        ) from None
    except Exception as error:  # torch's exporter and onnxruntime raise a dozen kinds
        reason = short_reason(error.__cause__ or error)  # type: ignore[arg-type] # the exporter's says nothing
        raise InputError(
            f"{runtime.display_path(folder)} {problem} as ONNX ({reason}); use the folder of weights itself."
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's and the quantizer's advice to their developers from users."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
