"""How a trained model reads a text: tokens that a person can read, scores, gradients, embeddings, attention."""

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from utils import checkpoint, runtime
from utils.config import Config
from utils.data import clean_text, evaluation_batches


@dataclass
class Reading:
    """A text as the model read it. Special tokens take part in the reading, but are left out of what is told here."""

    tokens: list[str]  # as a person reads them; a piece that continues a word begins with ##
    spans: list[tuple[int, int]]  # the place of each token in the cleaned text
    scores: np.ndarray  # (targets,), in the targets' units
    embeddings: np.ndarray  # (tokens, width): what the encoder looks up for each token, less what for the mask
    gradients: np.ndarray  # (tokens, width): of the explained target's score, with respect to these
    attention: np.ndarray | None  # (tokens,): attention rollout, as shares of the whole
    pooled: np.ndarray  # (width,): what the head reads
    pooled_gradient: np.ndarray  # (width,)
    first: np.ndarray  # (width,): the last layer's state of the first token, [CLS] or <s>
    layers: dict[int, np.ndarray]  # of each chosen layer (0: the embeddings), the mean over the tokens, (width,)
    layer_gradients: dict[int, np.ndarray]  # of the score, when all tokens' states in that layer move alike


class Explainer:
    """A trained fold with the means to look inside. Attention is computed the plain way, which alone shows it.

    Args:
        folder: ``output/<run>/fold-<k>``.
        kind: "last", "best" or "swa" (averaged).
        config: what the fold was trained with; its ``max_length`` and text cleaning hold here too.
        target: the number of the target whose score is explained.
        layers: which layers' embeddings are told; none: the first, the middle and the last.
    """

    def __init__(self, folder: Path, kind: str, config: Config, target: int = 0, layers: tuple[int, ...] = ()):
        model, self.tokenizer = checkpoint.load_model(folder, kind, attn_implementation="eager")
        self.model = model.to(runtime.device()).requires_grad_(False)  # gradients are of the texts
        self.config, self.target = config, target
        depth = model.config.encoder.num_hidden_layers
        self.layers = layers or tuple(sorted({0, (depth + 1) // 2, depth}))
        self.vocabulary = readable_vocabulary(self.tokenizer)
        # Zero would be no baseline for encoders that normalise what they look up: its length means nothing to them.
        self.mask = self.tokenizer.mask_token or self.tokenizer.unk_token
        masked = torch.tensor([self.tokenizer.convert_tokens_to_ids(self.mask)], device=self.model.device)
        self._baseline = self.model.encoder.get_input_embeddings()(masked)[0]
        self._one_at_a_time = threading.Lock()  # LIT's server has threads, and read changes the model for a moment

    @torch.no_grad()
    def scores(self, texts: list[str]) -> np.ndarray:
        """Scores alone, (texts, targets), in batches of similar length."""
        if not texts:
            return np.empty((0, len(self.config.target_columns)))
        lengths = [len(ids) for ids in self.tokenized(texts)["input_ids"]]
        found = np.empty((len(texts), len(self.config.target_columns)))
        for rows in evaluation_batches(lengths, self.config.eval_batch_size):
            inputs, _, _ = self.inputs([texts[row] for row in rows])
            with self._one_at_a_time:
                found[rows] = self.model(**inputs).logits.cpu().double().numpy()
        return found

    def read(self, texts: list[str], embeddings: list[np.ndarray | None] | None = None) -> list[Reading]:
        """Everything about some texts, in one batch.

        Args:
            embeddings: for each text, None or its tokens' embeddings, (tokens, width), to take instead of its own; all
                zero is the text with every token masked. Attention is not computed then.
        """
        given = embeddings or [None] * len(texts)
        inputs, kept, spans = self.inputs(texts)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        table = self.model.encoder.get_input_embeddings()
        with self._one_at_a_time:
            looked_up = table(ids).detach()
        for row, values in enumerate(given):
            if values is not None:
                given_here = torch.as_tensor(values, dtype=looked_up.dtype, device=looked_up.device)
                looked_up[row, kept[row]] = given_here + self._baseline
        with torch.enable_grad():
            looked_up.requires_grad_()
            whole = all(values is None for values in given)
            # Put in place rather than passed as inputs_embeds, with which some encoders count positions otherwise.
            with self._one_at_a_time:
                hook = table.register_forward_hook(lambda *_: looked_up)
                try:
                    output = self.model(**inputs, **({"output_attentions": True} if whole else {}))
                finally:
                    hook.remove()
            states = {layer: output.hidden_states[layer] for layer in self.layers}
            pooled = self.model.pool(output.hidden_states, mask)
            rate = self.model.target_std[self.target]
            pooled_score = (self.model.multi_sample_head(self.model.norm(pooled))[:, self.target] * rate).sum()
            (pooled_gradients,) = torch.autograd.grad(pooled_score, pooled, retain_graph=True)
            score = output.logits[:, self.target].sum()
            gradients, *by_layer = torch.autograd.grad(score, [looked_up, *states.values()], allow_unused=True)
        share = (mask / mask.sum(dim=1, keepdim=True)).unsqueeze(-1)
        means = {layer: _array((state * share).sum(dim=1)) for layer, state in states.items()}
        moved = {
            layer: np.zeros_like(means[layer]) if slope is None else _array(slope.sum(dim=1))
            for layer, slope in zip(states, by_layer, strict=True)
        }
        attention = self._rollout(output, mask) if whole else None
        logits, gradients = _array(output.logits), _array(gradients)
        looked_up = _array(looked_up - self._baseline)
        pooled, pooled_gradients, first = map(_array, (pooled, pooled_gradients, output.hidden_states[-1][:, 0]))
        return [
            Reading(
                tokens=self._named(ids[row, kept[row]].tolist()), spans=spans[row],
                scores=logits[row].astype(float), embeddings=looked_up[row, kept[row]],
                gradients=gradients[row, kept[row]], attention=None if attention is None else attention[row][kept[row]],
                pooled=pooled[row], pooled_gradient=pooled_gradients[row], first=first[row],
                layers={layer: values[row] for layer, values in means.items()},
                layer_gradients={layer: values[row] for layer, values in moved.items()},
            )
            for row in range(len(texts))
        ]  # fmt: skip

    def _named(self, ids: list[int]) -> list[str]:
        """Tokens as a person reads them; what opens a text or follows a quotation mark continues no word."""
        names = [self.vocabulary[number] for number in ids]
        before = ["", *names]
        return [name if last[-1:].isalnum() else name.removeprefix("##") for last, name in zip(before, names)]  # noqa: B905

    @torch.no_grad()
    def attentions(self, text: str) -> tuple[list[str], np.ndarray]:
        """The tokens of a text, special ones included, and attention (layers, heads, from, to)."""
        inputs, _, _ = self.inputs([text])
        with self._one_at_a_time:
            output = self.model(**inputs, output_attentions=True)
        tokens = [self.vocabulary[number] for number in inputs["input_ids"][0].tolist()]
        return tokens, np.stack([_array(layer[0]) for layer in output.attentions])

    def inputs(self, texts: list[str]) -> tuple[dict[str, torch.Tensor], list[np.ndarray], list[list[tuple[int, int]]]]:
        """The model's inputs, padded, on its device; which tokens are no special ones; and where these lie."""
        encoded = self.tokenized(texts, return_special_tokens_mask=True, return_offsets_mapping=True)
        special, offsets = encoded.pop("special_tokens_mask"), encoded.pop("offset_mapping")
        kept = [np.flatnonzero(np.array(row) == 0) for row in special]
        spans = [
            [(start + (text[start:stop][:1] == " "), stop) for start, stop in (row[place] for place in places)]
            for text, row, places in zip(map(clean_text, texts), offsets, kept, strict=True)
        ]  # the space before a word, which some tokenizers count to it, left out
        side = self.tokenizer.padding_side
        padded = self.tokenizer.pad(encoded, return_tensors="pt")
        if side == "left":
            longest = padded["input_ids"].shape[1]
            kept = [places + longest - len(row) for places, row in zip(kept, special, strict=True)]
        return dict(padded.to(self.model.device)), kept, spans

    def tokenized(self, texts: list[str], **options) -> dict:
        """The tokenizer's answer, unpadded, with the cleaning and the length of the training."""
        cleaned = [clean_text(text) for text in texts]
        return self.tokenizer(cleaned, truncation=True, max_length=self.config.max_length, **options)

    def _rollout(self, output, mask: torch.Tensor) -> np.ndarray:
        """Attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928) from what the head reads down to the tokens.

        Each layer's attention, averaged over its heads, is mixed half and half with the identity (the residual
        connection), and the layers are multiplied. It begins where this model pools: at the first token or evenly at
        all, in the last layer or in every layer with its learnt weight.

        Returns:
            (texts, tokens), summing to 1 over each text.
        """
        pooling = self.model.config.pooling
        start = torch.zeros_like(mask, dtype=torch.float32)
        if pooling.startswith("cls"):
            start[torch.arange(len(mask)), mask.argmax(dim=1)] = 1.0
        elif pooling == "attention":
            worth = self.model.attention(output.hidden_states[-1]).squeeze(-1)
            start = worth.float().masked_fill(~mask.bool(), -1e4).softmax(dim=1)
        else:
            start = mask / mask.sum(dim=1, keepdim=True)
        depth = len(output.attentions)
        shares = torch.zeros(depth + 1, device=mask.device)
        shares[-1] = 1.0
        if pooling.endswith("_layers"):
            shares = self.model.layer_weights.float().softmax(dim=0)
        flow = torch.zeros_like(start)
        for layer in range(depth, 0, -1):
            flow = flow + shares[layer] * start
            flow = 0.5 * flow + 0.5 * torch.einsum("bt,bts->bs", flow, output.attentions[layer - 1].mean(dim=1).float())
        flow = (flow + shares[0] * start) * mask
        return _array(flow / flow.sum(dim=1, keepdim=True))


def readable_vocabulary(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Every token of the vocabulary, by its id, as a person reads it.

    Byte-level BPE (RoBERTa: "Ġread", "ing") and SentencePiece ("▁read", "ing") come out as WordPiece writes them:
    "read", "##ing". Bytes that are no whole character come in angle brackets.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    often = {mark: sum((token or "").startswith(mark) for token in tokens) for mark in ("Ġ", "▁")}
    mark = max(often, key=often.get)
    if often[mark] < len(tokens) / 50:
        return [token or "" for token in tokens]
    special = set(tokenizer.all_special_tokens)
    found = []
    for token in tokens:
        text = "" if token is None else token.replace("▁", " ")
        if mark == "Ġ" and token and token not in special:
            text = tokenizer.convert_tokens_to_string([token])
        if token is None or token in special:
            found.append(token or "")
        elif "\ufffd" in text or not text.strip():
            found.append(f"<{token}>")
        elif text.startswith(" ") or not text[0].isalnum():
            found.append(text.strip())
        else:
            found.append(f"##{text}")
    return found


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


def words_of(text: str, spans: list[tuple[int, int]], values: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The words of a cleaned text as they are written, and the sum of ``values`` over each word's tokens.

    Words are what spaces part; those beyond ``max_length``, which the model did not read, are left out.

    Args:
        spans: the place of each token, as a Reading has it.
        values: (tokens,).
    """
    words, sums, end = [], [], 0
    starts, stops = np.array(spans).reshape(-1, 2).T
    for word in text.split():
        begin = text.index(word, end)
        end = begin + len(word)
        inside = (starts < end) & (stops > begin)
        if inside.any():
            words.append(word)
            sums.append(values[inside].sum())
    return words, np.array(sums)
