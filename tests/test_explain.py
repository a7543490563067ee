"""What a model reads: tokens, scores, gradients, attention, for every family of encoders."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from tests.conftest import FAMILIES
from utils import checkpoint
from utils.config import PRESETS
from utils.data import load_table
from utils.explain import Explainer, readable_vocabulary, words_of
from utils.fold import fit_fold
from utils.model import TextRegressor, TextRegressorConfig

TEXTS = ["The old lighthouse keeper counted the waves.", "A cat sat.", "Rain fell on the harbour all night long, and"]


def learnt(kind, texts):
    """A small tokenizer of a kind: byte-level BPE as RoBERTa's, or pieces with a mark for spaces as SentencePiece's."""
    special = ["<s>", "</s>", "<pad>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    level = pre_tokenizers.ByteLevel if kind == "bytes" else pre_tokenizers.Metaspace
    tokenizer.pre_tokenizer = level(add_prefix_space=False) if kind == "bytes" else level()
    tokenizer.decoder = decoders.ByteLevel() if kind == "bytes" else decoders.Metaspace()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bytes" else []
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    named = dict(zip(("bos_token", "eos_token", "pad_token", "unk_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


@pytest.mark.parametrize("kind", ["bytes", "marks"])
def test_byte_level_and_sentencepiece_tokens_read_as_words(kind):
    tokenizer = learnt(kind, ["the reading reader reads the readable text, café — yes"] * 20)
    vocabulary = readable_vocabulary(tokenizer)
    ids = tokenizer("the reader, the café")["input_ids"][1:-1]
    read = [vocabulary[i] for i in ids]
    glued = " ".join(read).removeprefix("##").replace(" ##", "").replace(" ,", ",")
    assert glued == "the reader, the café", read
    assert "the" in read[1:]
    assert vocabulary[:5] == ["<s>", "</s>", "<pad>", "<unk>", "<mask>"]
    assert not any("Ġ" in word or "▁" in word for word in read)


def test_word_pieces_stay_as_they_are(tiny):
    tokenizer = BertTokenizerFast(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5, "##b": 6})
    assert readable_vocabulary(tokenizer) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]


POOLINGS = ["mean_layers", "cls_layers", "cls", "attention", "mean_layers", "mean_layers", "cls_layers"]


@pytest.fixture(params=list(zip(FAMILIES, POOLINGS, strict=True)), ids="-".join)
def explainer(request, tiny, tmp_path):
    """An untrained model of each family, each with another pooling, as a fold's folder, and its Explainer."""
    family, pooling = request.param
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "the", "old", "cat", *letters, ".", ","]
    tokens += [f"##{letter}" for letter in letters]
    tokenizer = BertTokenizerFast(vocab={token: i for i, token in enumerate(tokens)}, model_max_length=40)
    torch.manual_seed(0)
    config = TextRegressorConfig(encoder=FAMILIES[family], pooling=pooling, target_mean=[-1.0], target_std=[2.0])
    model = TextRegressor(config).eval()
    checkpoint.save_model(config, model.state_dict(), tokenizer, tmp_path / "swa")
    return Explainer(tmp_path, "swa", tiny(max_length=40))


def test_everything_told_is_aligned_and_padding_changes_nothing(explainer):
    together, alone = explainer.read(TEXTS), [explainer.read([text])[0] for text in TEXTS]
    scores = explainer.scores(TEXTS)
    for text, one, other, score in zip(TEXTS, together, alone, scores, strict=True):
        width = one.embeddings.shape[1]
        assert one.embeddings.shape == one.gradients.shape == (len(one.tokens), width)
        assert len(one.spans) == len(one.tokens) == len(one.attention) < 40
        assert "[CLS]" not in one.tokens
        pieces = "".join(text[a:b] for a, b in one.spans).lower()
        assert pieces == text.replace(" ", "").lower()[: len(pieces)]
        for name in ("scores", "gradients", "attention", "pooled", "pooled_gradient", "first"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-3, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(one.scores, score, atol=1e-5)


def test_gradients_are_the_slopes_of_the_score(explainer):
    explainer.model.double()
    one = explainer.read(TEXTS[:1])[0]
    own = explainer.read(TEXTS[:1], [one.embeddings])[0]
    np.testing.assert_allclose(own.scores, one.scores, atol=1e-6)
    assert own.attention is None
    direction = np.random.default_rng(0).normal(size=one.embeddings.shape).astype(np.float32)
    step = 1e-3
    there, back = (explainer.read(TEXTS[:1], [one.embeddings + s * direction])[0].scores[0] for s in (step, -step))
    assert (there - back) / (2 * step) == pytest.approx((one.gradients * direction).sum(), rel=0.05, abs=1e-3)
    with torch.no_grad():
        head = explainer.model
        pooled, move = torch.tensor(one.pooled).double(), torch.full((len(one.pooled),), 0.1).double()
        there, back = ((head.head(head.norm(pooled + s * move)) * head.target_std).item() for s in (step, -step))
    assert (there - back) / (2 * step) == pytest.approx(float(one.pooled_gradient @ move.numpy()), rel=0.05, abs=1e-3)


def test_the_path_from_the_masked_text_adds_up(explainer):
    """Integrated gradients, by the midpoints of 200 steps; also where the encoder normalises what it looks up."""
    one = explainer.read(TEXTS[:1])[0]
    masked, steps = explainer.read(TEXTS[:1], [0 * one.embeddings])[0], 200
    path = [explainer.read(TEXTS[:1], [(i + 0.5) / steps * one.embeddings])[0].gradients for i in range(steps)]
    total = float((np.mean(path, axis=0) * one.embeddings).sum())
    assert total == pytest.approx(one.scores[0] - masked.scores[0], rel=0.02, abs=2e-3)


def test_a_layers_gradient_moves_all_its_tokens_alike(tiny, tiny_table):
    config = tiny(pooling="cls")  # so that the layer is read by the next one alone
    explainer = Explainer(fit_fold(config, tiny_table), "swa", config, layers=(1,))
    explainer.model.double()
    text = tiny_table["excerpt"].iloc[0]
    one = explainer.read([text])[0]
    layer = explainer.model.encoder.encoder.layer[0]
    move = torch.randn(32, generator=torch.Generator().manual_seed(0)).double()
    scores = []
    for step in (1e-3, -1e-3):
        hook = layer.register_forward_hook(lambda module, args, output, by=step * move: output + by)
        scores.append(explainer.read([text])[0].scores[0])
        hook.remove()
    assert (scores[0] - scores[1]) / 2e-3 == pytest.approx(float(one.layer_gradients[1] @ move.numpy()), rel=0.02)


def test_the_head_is_there_and_scores_are_those_of_the_training(tiny, tiny_table):
    folder = fit_fold(tiny(), tiny_table)
    written = checkpoint.read_predictions(folder).set_index("id")
    texts = load_table(tiny()).set_index("id").loc[written.index, "excerpt"].tolist()
    for kind in checkpoint.KINDS:
        found = Explainer(folder, kind, tiny()).scores(texts)[:, 0]
        np.testing.assert_allclose(found, written[kind], atol=1e-5)
    assert PRESETS["tiny"]["max_length"] == 64, "most of these texts are longer"
    reading = Explainer(folder, "swa", tiny()).read(texts[:3])
    assert [len(one.tokens) for one in reading] == [62] * 3, "as many as in training, less the special ones"


def test_rollout_follows_attention(explainer):
    inputs, _, _ = explainer.inputs(TEXTS[:1])
    mask = inputs["attention_mask"]
    tokens = mask.shape[1]
    with torch.no_grad():
        output = explainer.model(**inputs, output_attentions=True)
    depth = len(output.attentions)
    output.attentions = tuple(torch.eye(tokens).expand(1, 2, tokens, tokens) for _ in range(depth))
    stays = explainer._rollout(output, mask)[0]
    output.attentions = tuple(torch.zeros(1, 2, tokens, tokens) for _ in range(depth))
    for layer in output.attentions:
        layer[..., 2] = 1.0  # every token looks at the third
    drawn = explainer._rollout(output, mask)[0]
    assert stays.sum() == pytest.approx(1, abs=1e-5)
    if explainer.model.config.pooling.startswith("cls"):
        assert stays[0] == pytest.approx(1, abs=1e-5)
    elif explainer.model.config.pooling == "mean_layers":
        np.testing.assert_allclose(stays, 1 / tokens, atol=1e-5)
    if explainer.model.config.pooling in ("cls", "attention"):
        assert drawn[2] == pytest.approx(1 - 0.5**depth + 0.5**depth * stays[2], abs=1e-5)
    assert drawn[2] > stays[2]


def test_words_take_what_their_tokens_have():
    text, spans = "The reader reads on", [(0, 3), (4, 8), (8, 10), (11, 16)]
    words, values = words_of(text, spans, np.array([1.0, 2.0, 3.0, 4.0]))
    assert words == ["The", "reader", "reads"], "what was not read is left out"
    np.testing.assert_array_equal(values, [1, 5, 4])
