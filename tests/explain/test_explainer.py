"""What a model reads: tokens, scores, gradients and attention, for every family of encoders."""

import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from tests.conftest import FAMILIES
from utils.config import PRESETS
from utils.explain.explainer import Explainer
from utils.explain.heads import head_effects, strongest_heads
from utils.explain.readable import readable_vocabulary, words_of
from utils.explain.rollout import attention_rollout
from utils.modeling.heads import HeadConfig
from utils.modeling.model import TextModel, TextModelConfig
from utils.runs import artifacts
from utils.runs.fold import fit_fold
from utils.tasks import load_table, make_task

TEXTS = [
    "The old lighthouse keeper counted the waves.",
    "A cat sat.",
    "Rain fell on the harbour all night long, and",
]


def train_tokenizer(scheme, texts):
    """A small tokenizer: "bytes" has byte-level BPE like RoBERTa; "marks" marks spaces like SentencePiece."""
    special = ["<s>", "</s>", "<pad>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    alphabet = []
    if scheme == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder, alphabet = decoders.ByteLevel(), pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    names = ("bos_token", "eos_token", "pad_token", "unk_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(names, special, strict=True)))


@pytest.mark.parametrize("scheme", ["bytes", "marks"])
def test_byte_level_and_sentencepiece_tokens_read_as_words(scheme):
    tokenizer = train_tokenizer(scheme, ["the reading reader reads the readable text, café — yes"] * 20)
    vocabulary = readable_vocabulary(tokenizer)
    ids = tokenizer("the reader, the café")["input_ids"][1:-1]
    tokens = [vocabulary[i] for i in ids]
    joined = " ".join(tokens).removeprefix("##").replace(" ##", "").replace(" ,", ",")
    assert joined == "the reader, the café", tokens
    assert "the" in tokens[1:]
    assert vocabulary[:5] == ["<s>", "</s>", "<pad>", "<unk>", "<mask>"]
    assert not any("Ġ" in word or "▁" in word for word in tokens)


def test_word_pieces_stay_as_they_are():
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]
    tokenizer = BertTokenizerFast(vocab={token: i for i, token in enumerate(vocabulary)})
    assert readable_vocabulary(tokenizer) == vocabulary


POOLINGS = ["mean_layers", "cls_layers", "cls", "attention", "mean_layers", "mean_layers", "cls_layers"]


@pytest.fixture(params=list(zip(FAMILIES, POOLINGS, strict=True)), ids="-".join)
def explainer(request, tiny, tmp_path):
    """The Explainer of an untrained model of each family, each with another pooling."""
    family, pooling = request.param
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "the", "old", "cat", *letters, ".", ","]
    tokens += [f"##{letter}" for letter in letters]
    tokenizer = BertTokenizerFast(vocab={token: i for i, token in enumerate(tokens)}, model_max_length=40)
    torch.manual_seed(0)
    head = HeadConfig(("target",), location=(-1.0,), scale=(2.0,))
    config = TextModelConfig(encoder=FAMILIES[family], pooling=pooling, head=head)
    model = TextModel(config).eval()
    artifacts.save_model(config, model.state_dict(), tokenizer, tmp_path)
    return Explainer(tmp_path, make_task(tiny(max_length=40)))


def test_everything_is_aligned_and_padding_changes_nothing(explainer):
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
            np.testing.assert_allclose(
                getattr(one, name), getattr(other, name), rtol=1e-3, atol=1e-5, err_msg=name
            )
        np.testing.assert_allclose(one.scores, score, atol=1e-5)


def test_gradients_are_the_slopes_of_the_score(explainer):
    explainer.model.double()
    one = explainer.read(TEXTS[:1])[0]
    again = explainer.read(TEXTS[:1], [one.embeddings])[0]
    np.testing.assert_allclose(again.scores, one.scores, atol=1e-6)
    assert again.attention is None
    direction = np.random.default_rng(0).normal(size=one.embeddings.shape).astype(np.float32)
    step, tolerance = 1e-3, {"rel": 0.05, "abs": 1e-3}
    moved = [one.embeddings + sign * step * direction for sign in (1, -1)]
    up, down = (explainer.read(TEXTS[:1], [embeddings])[0].scores[0] for embeddings in moved)
    assert (up - down) / (2 * step) == pytest.approx((one.gradients * direction).sum(), **tolerance)
    with torch.no_grad():
        head = explainer.model.head
        pooled, move = torch.tensor(one.pooled).double(), torch.full((len(one.pooled),), 0.1).double()
        vectors = [pooled + sign * step * move for sign in (1, -1)]
        up, down = ((head.linear(head.norm(vector)) * head.scale).item() for vector in vectors)
    assert (up - down) / (2 * step) == pytest.approx(float(one.pooled_gradient @ move.numpy()), **tolerance)


def test_the_path_from_the_masked_text_adds_up(explainer):
    """Integrated gradients, by the midpoints of 200 steps; also where the encoder normalises embeddings."""
    one = explainer.read(TEXTS[:1])[0]
    masked, steps = explainer.read(TEXTS[:1], [0 * one.embeddings])[0], 200
    path = [
        explainer.read(TEXTS[:1], [(i + 0.5) / steps * one.embeddings])[0].gradients for i in range(steps)
    ]
    total = float((np.mean(path, axis=0) * one.embeddings).sum())
    assert total == pytest.approx(one.scores[0] - masked.scores[0], rel=0.02, abs=2e-3)


def test_a_layers_gradient_moves_all_its_tokens_alike(tiny, tiny_table):
    config = tiny(pooling="cls")  # so that the layer is read by the next one alone
    explainer = Explainer(fit_fold(config, tiny_table) / "averaged", make_task(config), layers=(1,))
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
    assert (scores[0] - scores[1]) / 2e-3 == pytest.approx(
        float(one.layer_gradients[1] @ move.numpy()), rel=0.02
    )


def test_the_head_is_loaded_and_scores_are_those_of_the_training(tiny, tiny_table):
    folder = fit_fold(tiny(), tiny_table)
    written = artifacts.read_predictions(folder).set_index("id")
    texts = load_table(tiny()).set_index("id").loc[written.index, "excerpt"].tolist()
    for weights in artifacts.WEIGHTS:
        scores = Explainer(folder / weights, make_task(tiny())).scores(texts)[:, 0]
        np.testing.assert_allclose(scores, written[weights], atol=1e-5)
    assert PRESETS["tiny"]["max_length"] == 64, "most of these texts are longer"
    readings = Explainer(folder / "averaged", make_task(tiny())).read(texts[:3])
    assert [len(one.tokens) for one in readings] == [62] * 3, "as many as in training, minus the special ones"


def test_rollout_follows_attention(explainer):
    inputs = explainer.encode(TEXTS[:1]).inputs
    mask = inputs["attention_mask"]
    tokens = mask.shape[1]
    with torch.no_grad():
        output = explainer.model(**inputs)
        weights = explainer.model.pooling.weights(output.hidden_states, mask)
    depth = len(output.hidden_states) - 1
    identity = tuple(torch.eye(tokens).expand(1, 2, tokens, tokens) for _ in range(depth))
    stays = attention_rollout(identity, weights, mask)[0].numpy()
    to_the_third = torch.zeros(1, 2, tokens, tokens)
    to_the_third[..., 2] = 1.0
    drawn = attention_rollout((to_the_third,) * depth, weights, mask)[0].numpy()
    assert stays.sum() == pytest.approx(1, abs=1e-5)
    if explainer.model.config.pooling.startswith("cls"):
        assert stays[0] == pytest.approx(1, abs=1e-5)
    elif explainer.model.config.pooling == "mean_layers":
        np.testing.assert_allclose(stays, 1 / tokens, atol=1e-5)
    if explainer.model.config.pooling in ("cls", "attention"):
        assert drawn[2] == pytest.approx(1 - 0.5**depth + 0.5**depth * stays[2], abs=1e-5)
    assert drawn[2] > stays[2]


def test_the_effect_of_a_head_is_that_of_its_output(explainer):
    """Without the weights that mix it in, the score is the one without the head."""
    text = "The old cat sat."
    effects = head_effects(explainer, text)
    (heads,) = {effects.shape[1]}
    modules = dict(explainer.model.encoder.named_modules())
    mixers = [name for name in modules if re.search(r"(attention\.output\.dense|out_lin|attn\.Wo)$", name)]
    assert effects.shape == (len(mixers), 2)
    (whole,) = explainer.scores([text])[:, 0]
    for layer, head in np.ndindex(effects.shape):
        weight = modules[mixers[layer]].weight
        width, kept = weight.shape[1] // heads, weight.detach().clone()
        weight[:, head * width : (head + 1) * width] = 0
        (without,) = explainer.scores([text])[:, 0]
        weight.copy_(kept)
        assert effects[layer, head] == pytest.approx(whole - without, abs=1e-6)
    assert np.abs(effects).max() > 1e-5
    layer, head = strongest_heads(effects, 1)[0]
    assert abs(effects[layer, head]) == np.abs(effects).max()


def test_words_take_what_their_tokens_have():
    text, spans = "The reader reads on", [(0, 3), (4, 8), (8, 10), (11, 16)]
    words, values = words_of(text, spans, np.array([1.0, 2.0, 3.0, 4.0]))
    assert words == ["The", "reader", "reads"], "what was not read is left out"
    np.testing.assert_array_equal(values, [1, 5, 4])
