"""How a trained model reads a text: tokens, scores, gradients, embeddings, attention."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from utils.config import InputError
from utils.data.tokens import evaluation_batches
from utils.explain.encoding import Encoded, Encoder, Read
from utils.explain.lookup import lookup_replaced
from utils.explain.readable import readable_tokens, readable_vocabulary
from utils.explain.rollout import attention_rollout, attention_weights
from utils.machine import runtime
from utils.modeling.model import TextModelOutput
from utils.modeling.pooling import at, first_token
from utils.modeling.token_states import text_vectors
from utils.runs import artifacts
from utils.tasks import Task

Arrays = dict[str, np.ndarray]
#: What is explained: a number per text, (batch,), of the head's outputs, (batch, outputs), or per token,
#: (batch, tokens, outputs).
Explained = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Reading:
    """A text as the model read it. The model reads special tokens too, but they are left out here."""

    tokens: list[str]  # readable; a piece that continues a word begins with ##
    spans: list[tuple[int, int]]  # where each token starts and stops in the cleaned text
    logits: np.ndarray  # of the head, (outputs,), or (tokens, outputs) where it answers per token; float64
    scores: np.ndarray  # (outputs,), float64
    embeddings: np.ndarray  # (tokens, width): what the encoder looks up for each token, minus the mask's
    gradients: np.ndarray  # (tokens, width): of the explained score, with respect to the embeddings
    pooled: np.ndarray  # (width,): what the head reads
    pooled_gradient: np.ndarray  # (width,)
    first: np.ndarray  # (width,): the last layer's state of the first token, [CLS] or <s>
    layers: dict[int, np.ndarray]  # mean over the tokens of each chosen layer (0: the embeddings), (width,)
    layer_gradients: dict[int, np.ndarray]  # of the score, when all tokens' states in that layer move alike
    attention: np.ndarray | None = None  # (tokens,): the shares of attention rollout, where there is any


class Gradients(NamedTuple):
    """Of each text's explained score."""

    vectors: np.ndarray  # of the tokens' embeddings, (batch, tokens, width)
    pooled: np.ndarray  # (batch, width)
    layers: list[np.ndarray]  # summed over the tokens, (batch, width) per chosen layer


class Explainer(Encoder):
    """A trained model that can be looked into. Its attention is the plain kind, since no other gives weights.

    Args:
        folder: of weights, such as ``output/<run>/fold-<k>/averaged``.
        task: the run's; its config's ``max_length`` holds here too.
        output: number of the output, among ``task.outputs``, whose score is explained.
        layers: whose embeddings are kept; empty: the first, the middle and the last.

    Raises InputError where the folder holds no model of this suite.
    """

    def __init__(self, folder: Path, task: Task, output: int = 0, layers: tuple[int, ...] = ()):
        model, tokenizer = artifacts.load_model(folder, attn_implementation="eager")
        model = model.to(runtime.device()).requires_grad_(False)  # gradients are of the texts
        super().__init__(model, tokenizer, task)
        self.explained = functools.partial(task.explained, output=output)
        depth = model.config.encoder.num_hidden_layers
        self.layers = layers or tuple(sorted({0, (depth + 1) // 2, depth}))
        self.vocabulary = readable_vocabulary(self.tokenizer)
        # The baseline is the mask's embedding. Zero would mean nothing to encoders that normalise embeddings.
        self.mask_token = self.tokenizer.mask_token or self.tokenizer.unk_token
        mask = torch.tensor([self.tokenizer.convert_tokens_to_ids(self.mask_token)], device=self.model.device)
        try:
            baseline = self.model.encoder.get_input_embeddings()(mask)
        except NotImplementedError:  # of encoders that embed characters
            baseline = None
        if not isinstance(baseline, torch.Tensor) or not self.tokenizer.is_fast:
            raise InputError(f"{folder}: this encoder's words cannot be explained; predict with it instead.")
        self._baseline = baseline[0]
        self._lock = threading.Lock()  # LIT's server has threads, and ``read`` hooks into the model

    # --- what is asked ----------------------------------------------------------------------------------

    @torch.no_grad()
    def logits(self, texts: list[Read]) -> list[np.ndarray]:
        """What the head gives for each text, as in a Reading, computed in batches of similar length."""
        logits: list[np.ndarray] = [np.empty(0)] * len(texts)
        lengths = [len(ids) for ids in self.tokenize(texts)["input_ids"]] if texts else []
        for numbers in evaluation_batches(lengths, self.config.eval_batch_size):
            encoded = self.encode([texts[number] for number in numbers])
            with self._lock:
                output = self.model(**encoded.inputs, extras=encoded.extras)
            for number, array in zip(numbers, encoded.of_texts(output["logits"]), strict=True):
                logits[number] = array.numpy()
        return logits

    def scores(self, texts: list[Read]) -> np.ndarray:
        """The scores alone, (texts, outputs)."""
        return self._scores(map(torch.from_numpy, self.logits(texts)))

    def read(
        self,
        texts: list[Read],
        embeddings: list[np.ndarray | None] | None = None,
        explained: Sequence[Explained] = (),
    ) -> list[Reading]:
        """Everything about some texts, in one batch.

        Args:
            embeddings: per text, None or what replaces its tokens' embeddings, (tokens, width), as in a
                Reading; all zeros is the text with every token masked. Attention is then left out.
            explained: per text, what the gradients are of; empty: of the score with the number ``output``.
        """
        encoded = self.encode(texts)
        replaced = any(values is not None for values in embeddings or [])
        with torch.enable_grad():
            vectors = self._embeddings(encoded, embeddings).requires_grad_()
            output = self._run(encoded, vectors, attentions=not replaced)
            logits = encoded.of_texts(output["logits"])
            gradients = self._gradients(output, logits, vectors, explained or [self.explained] * len(texts))
        per_token = self._per_token(encoded, vectors, output) | {"gradients": gradients.vectors}
        logits = [one.detach() for one in logits]
        per_text: dict[str, Any] = {
            "logits": [one.numpy() for one in logits],
            "scores": self._scores(logits),
            "pooled": _array(text_vectors(output["pooled"], encoded.inputs["attention_mask"])),
            "pooled_gradient": gradients.pooled,
            "first": _array(at(output["hidden_states"][-1], first_token(encoded.inputs["attention_mask"]))),
        }
        per_layer = {"layers": self._layers(encoded, output), "layer_gradients": gradients.layers}
        return self._readings(encoded, per_token, per_text, per_layer)

    @torch.no_grad()
    def attentions(self, text: Read) -> tuple[list[str], np.ndarray | None]:
        """The tokens of a text, and attention, (layers, heads, from, to), where there is any."""
        inputs, *_, extras = self.encode([text])
        with self._lock:
            output = self.model(**inputs, extras=extras, output_attentions=True)
        tokens = [self.vocabulary[number] for number in inputs["input_ids"][0].tolist()]
        weights = attention_weights(output, inputs["attention_mask"])
        return tokens, None if weights is None else np.stack([_array(layer[0]) for layer in weights])

    @contextlib.contextmanager
    def hooked(self, module: nn.Module, hook: Callable) -> Iterator[None]:
        """Let ``hook`` change the inputs of one of the model's modules, while nobody else uses the model."""
        with self._lock:
            handle = module.register_forward_pre_hook(hook)
            try:
                yield
            finally:
                handle.remove()

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
            return self.model(**encoded.inputs, extras=encoded.extras, **options)

    def _gradients(
        self,
        output: TextModelOutput,
        logits: list[torch.Tensor],
        vectors: torch.Tensor,
        explained: Sequence[Explained],
    ) -> Gradients:
        score = torch.cat([score(one[None]) for score, one in zip(explained, logits, strict=True)]).sum()
        states = [output["hidden_states"][layer] for layer in self.layers]
        inputs = [vectors, output["pooled"], *states]
        of_vectors, of_pooled, *of_states = torch.autograd.grad(score, inputs, allow_unused=True)
        of_layers = [
            torch.zeros_like(state[:, 0]) if gradient is None else gradient.sum(dim=1)
            for state, gradient in zip(states, of_states, strict=True)
        ]
        of_pooled = of_pooled if of_pooled.dim() == 2 else of_pooled.sum(dim=1)
        return Gradients(_array(of_vectors), _array(of_pooled), list(map(_array, of_layers)))

    @torch.no_grad()
    def _per_token(self, encoded: Encoded, vectors: torch.Tensor, output: TextModelOutput) -> Arrays:
        """Values of a Reading, each (batch, tokens, ...)."""
        arrays = {"embeddings": _array(vectors - self._baseline)}
        mask = encoded.inputs["attention_mask"]
        attentions = attention_weights(output, mask)
        if attentions is not None:
            weights = self.model.pooling.weights(output["hidden_states"], mask, **encoded.extras)
            arrays["attention"] = _array(attention_rollout(attentions, weights, mask))
        return arrays

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
        per_text: dict[str, Any],
        per_layer: dict[str, list[np.ndarray]],
    ) -> list[Reading]:
        """What was read of a batch, taken apart into its texts."""

        def by_layer(arrays: list[np.ndarray], row: int) -> Any:
            return {layer: values[row] for layer, values in zip(self.layers, arrays, strict=True)}

        return [
            Reading(
                tokens=readable_tokens(encoded.inputs["input_ids"][row, positions].tolist(), self.vocabulary),
                spans=encoded.spans[row],
                **{name: values[row, positions] for name, values in per_token.items()},
                **{name: values[row] for name, values in per_text.items()},
                **{name: by_layer(arrays, row) for name, arrays in per_layer.items()},
            )
            for row, positions in enumerate(encoded.positions)
        ]

    def _scores(self, logits: Iterable[torch.Tensor]) -> np.ndarray:
        """The score of every output, (texts, outputs), as ``task.explained`` has it."""
        outputs = range(len(self.task.outputs))
        scores = [[self.task.explained(one[None], n).item() for n in outputs] for one in logits]
        return np.array(scores).reshape(-1, len(outputs))


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
