"""How a trained model reads a text: tokens, scores, gradients, embeddings, attention."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import BatchEncoding

from utils.config import InputError
from utils.data.tokens import evaluation_batches
from utils.lit.lookup import lookup_replaced
from utils.lit.pairs import Text, explained_text, tokenize_texts
from utils.lit.readable import readable_tokens, readable_vocabulary
from utils.lit.rollout import attention_rollout, attention_weights
from utils.machine import runtime
from utils.modeling.model import TextModelOutput
from utils.modeling.pooling import at, first_token
from utils.modeling.token_states import text_vectors
from utils.runs import artifacts
from utils.tasks import Task

Arrays = dict[str, np.ndarray]


@dataclass
class Reading:
    """A text as the model read it. The model reads special tokens too, but they are left out here."""

    tokens: list[str]  # readable; a piece that continues a word begins with ##
    spans: list[tuple[int, int]]  # where each token starts and stops in the cleaned text
    scores: np.ndarray  # (outputs,), float64
    embeddings: np.ndarray  # (tokens, width): what the encoder looks up for each token, minus the mask's
    gradients: np.ndarray  # (tokens, width): of the explained score, with respect to the embeddings
    pooled: np.ndarray  # (width,): what the head reads
    pooled_gradient: np.ndarray  # (width,)
    first: np.ndarray  # (width,): the last layer's state of the first token, [CLS] or <s>
    layers: dict[int, np.ndarray]  # mean over the tokens of each chosen layer (0: the embeddings), (width,)
    layer_gradients: dict[int, np.ndarray]  # of the score, when all tokens' states in that layer move alike
    attention: np.ndarray | None = None  # (tokens,): the shares of attention rollout, where there is any
    logits: np.ndarray | None = None  # (tokens, outputs), of a model that answers per token


class Encoded(NamedTuple):
    """Texts as the model takes them."""

    inputs: dict[str, torch.Tensor]  # padded, on the model's device, each (batch, tokens)
    positions: list[np.ndarray]  # of each text's tokens in its row of the inputs, without the special ones
    spans: list[list[tuple[int, int]]]  # where each of these tokens lies in the cleaned text


class Gradients(NamedTuple):
    """Of each text's explained score."""

    vectors: torch.Tensor  # of the tokens' embeddings, (batch, tokens, width)
    pooled: torch.Tensor  # (batch, width)
    layers: list[torch.Tensor]  # summed over the tokens, (batch, width) per chosen layer


class Explainer:
    """A trained model that can be looked into. Its attention is the plain kind, since no other gives weights.

    Args:
        folder: of weights, such as ``output/<run>/fold-<k>/averaged``.
        task: the run's; its config's ``max_length`` holds here too.
        output: number of the output, among ``task.outputs``, whose score is explained.
        layers: whose embeddings are kept; empty: the first, the middle and the last.

    Raises InputError where the folder holds no model of this suite.
    """

    def __init__(self, folder: Path, task: Task, output: int = 0, layers: tuple[int, ...] = ()):
        model, self.tokenizer = artifacts.load_model(folder, attn_implementation="eager")
        self.model = model.to(runtime.device()).requires_grad_(False)  # gradients are of the texts
        self.task, self.config, self.output = task, task.config, output
        depth = model.config.encoder.num_hidden_layers
        self.layers = layers or tuple(sorted({0, (depth + 1) // 2, depth}))
        self.vocabulary = readable_vocabulary(self.tokenizer)
        # The baseline is the mask's embedding. Zero would mean nothing to encoders that normalise embeddings.
        self.mask_token = self.tokenizer.mask_token or self.tokenizer.unk_token
        mask = torch.tensor([self.tokenizer.convert_tokens_to_ids(self.mask_token)], device=self.model.device)
        baseline = self.model.encoder.get_input_embeddings()(mask)
        if not isinstance(baseline, torch.Tensor):
            raise InputError(
                f"{folder}: this encoder's embeddings cannot be explained; predict with it instead."
            )
        self._baseline = baseline[0]
        self._lock = threading.Lock()  # LIT's server has threads, and ``read`` hooks into the model

    # --- what is asked ----------------------------------------------------------------------------------

    @torch.no_grad()
    def scores(self, texts: Sequence[Text]) -> np.ndarray:
        """The scores alone, (texts, outputs), computed in batches of similar length."""
        scores = np.empty((len(texts), len(self.task.outputs)))
        lengths = [len(ids) for ids in self.tokenize(texts)["input_ids"]] if texts else []
        for numbers in evaluation_batches(lengths, self.config.eval_batch_size):
            encoded = self.encode([texts[number] for number in numbers])
            with self._lock:
                scores[numbers] = self._scores(in_text(self.model(**encoded.inputs).logits, encoded))
        return scores

    def read(self, texts: Sequence[Text], embeddings: list[np.ndarray | None] | None = None) -> list[Reading]:
        """Everything about some texts, in one batch.

        Args:
            embeddings: per text, None or what replaces its tokens' embeddings, (tokens, width), as in a
                Reading; all zeros is the text with every token masked. Attention is then left out.
        """
        encoded = self.encode(texts)
        replaced = any(values is not None for values in embeddings or [])
        with torch.enable_grad():
            vectors = self._embeddings(encoded, embeddings).requires_grad_()
            output = self._run(encoded, vectors, attentions=not replaced)
            logits = in_text(output["logits"], encoded)
            gradients = self._gradients(output, logits, vectors)
        per_token = self._per_token(encoded, vectors, output) | {"gradients": _array(gradients.vectors)}
        per_text = {
            "scores": self._scores(logits),
            "pooled": _array(text_vectors(output["pooled"], encoded.inputs["attention_mask"])),
            "pooled_gradient": _array(gradients.pooled),
            "first": _array(at(output["hidden_states"][-1], first_token(encoded.inputs["attention_mask"]))),
        }
        layers = self._layers(encoded, output)
        return self._readings(encoded, per_token, per_text, layers, list(map(_array, gradients.layers)))

    @torch.no_grad()
    def attentions(self, text: Text) -> tuple[list[str], np.ndarray | None]:
        """The tokens of a text, and attention, (layers, heads, from, to), where there is any."""
        inputs = self.encode([text]).inputs
        with self._lock:
            output = self.model(**inputs, output_attentions=True)
        tokens = [self.vocabulary[number] for number in inputs["input_ids"][0].tolist()]
        weights = attention_weights(output, inputs["attention_mask"])
        return tokens, None if weights is None else np.stack([_array(layer[0]) for layer in weights])

    def encode(self, texts: Sequence[Text]) -> Encoded:
        encoded = self.tokenize(texts, return_special_tokens_mask=True, return_offsets_mapping=True)
        special, offsets = encoded.pop("special_tokens_mask"), encoded.pop("offset_mapping")
        positions = [np.flatnonzero(np.array(row) == 0) for row in special]
        # The space before a word, which some tokenizers count as part of it, is left out.
        spans = [
            [(start + (text[start:stop][:1] == " "), stop) for start, stop in (row[i] for i in numbers)]
            for text, row, numbers in zip(map(explained_text, texts), offsets, positions, strict=True)
        ]
        padded = self.tokenizer.pad(encoded, return_tensors="pt")
        if self.tokenizer.padding_side == "left":
            longest = padded["input_ids"].shape[1]
            positions = [
                numbers + longest - len(row) for numbers, row in zip(positions, special, strict=True)
            ]
        return Encoded(dict(padded.to(self.model.device)), positions, spans)

    def tokenize(self, texts: Sequence[Text], **options) -> BatchEncoding:
        """The tokenizer's output, unpadded, for texts cleaned and cut as in training."""
        return tokenize_texts(texts, self.tokenizer, self.config.max_length, **options)

    # --- the steps of ``read`` ---------------------------------------------------------------------------

    def _embeddings(self, encoded: Encoded, replacements: list[np.ndarray | None] | None) -> torch.Tensor:
        """What the encoder looks up for each token, or its replacement, (batch, tokens, width)."""
        with self._lock:
            vectors = self.model.encoder.get_input_embeddings()(encoded.inputs["input_ids"]).detach()
        for row, values in enumerate(replacements or []):
            if values is not None:
                replacement = torch.as_tensor(values, dtype=vectors.dtype, device=vectors.device)
                vectors[row, encoded.positions[row]] = replacement + self._baseline
        return vectors

    def _run(self, encoded: Encoded, vectors: torch.Tensor, attentions: bool) -> TextModelOutput:
        """The model's output for the given embeddings."""
        options = {"output_attentions": True} if attentions else {}
        table = self.model.encoder.get_input_embeddings()
        with self._lock, lookup_replaced(table, encoded.inputs["input_ids"], vectors):
            return self.model(**encoded.inputs, **options)

    def _gradients(self, output: TextModelOutput, logits: torch.Tensor, vectors: torch.Tensor) -> Gradients:
        score = self.task.explained(logits, self.output).sum()
        states = [output["hidden_states"][layer] for layer in self.layers]
        inputs = [vectors, output["pooled"], *states]
        of_vectors, of_pooled, *of_states = torch.autograd.grad(score, inputs, allow_unused=True)
        of_layers = [
            torch.zeros_like(state[:, 0]) if gradient is None else gradient.sum(dim=1)
            for state, gradient in zip(states, of_states, strict=True)
        ]
        return Gradients(of_vectors, of_pooled if of_pooled.dim() == 2 else of_pooled.sum(dim=1), of_layers)

    @torch.no_grad()
    def _per_token(self, encoded: Encoded, vectors: torch.Tensor, output: TextModelOutput) -> Arrays:
        """Values of a Reading, each (batch, tokens, ...)."""
        arrays = {"embeddings": _array(vectors - self._baseline)}
        mask = encoded.inputs["attention_mask"]
        attentions = attention_weights(output, mask)
        if attentions is not None:
            weights = self.model.pooling.weights(output.hidden_states, mask)
            arrays["attention"] = _array(attention_rollout(attentions, weights, mask))
        return arrays if output["logits"].dim() == 2 else arrays | {"logits": _array(output["logits"])}

    @torch.no_grad()
    def _layers(self, encoded: Encoded, output: TextModelOutput) -> list[np.ndarray]:
        """The mean over the tokens of each chosen layer, (batch, width)."""
        mask = encoded.inputs["attention_mask"]
        shares = (mask / mask.sum(dim=1, keepdim=True)).unsqueeze(-1)
        return [_array((output["hidden_states"][layer] * shares).sum(dim=1)) for layer in self.layers]

    def _readings(
        self,
        encoded: Encoded,
        per_token: Arrays,
        per_text: Arrays,
        layers: list[np.ndarray],
        layer_gradients: list[np.ndarray],
    ) -> list[Reading]:
        """The arrays of a batch, taken apart into its texts."""
        return [
            Reading(
                tokens=readable_tokens(encoded.inputs["input_ids"][row, positions].tolist(), self.vocabulary),
                spans=encoded.spans[row],
                **{name: values[row, positions] for name, values in per_token.items()},
                **{name: values[row] for name, values in per_text.items()},
                layers=dict(zip(self.layers, [values[row] for values in layers], strict=True)),
                layer_gradients=dict(
                    zip(self.layers, [values[row] for values in layer_gradients], strict=True)
                ),
            )
            for row, positions in enumerate(encoded.positions)
        ]

    def _scores(self, logits: torch.Tensor) -> np.ndarray:
        """The score per text of every output, (batch, outputs), as ``task.explained`` has it."""
        scores = [self.task.explained(logits, number) for number in range(len(self.task.outputs))]
        return torch.stack(scores, dim=1).detach().cpu().double().numpy()


def in_text(logits: torch.Tensor, encoded: Encoded) -> torch.Tensor:
    """Logits per token, (batch, tokens, outputs), with minus infinity at what is not explained."""
    if logits.dim() == 2:
        return logits
    outside = torch.ones(logits.shape[:2], dtype=torch.bool)
    for row, positions in enumerate(encoded.positions):
        outside[row, positions] = False
    return logits.masked_fill(outside.unsqueeze(-1).to(logits.device), -torch.inf)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
