"""Local context focus against a plain, slow reference: one text, one token and one head at a time."""

import pytest
import torch

from tests.conftest import FAMILIES
from utils.modeling.heads import HeadConfig
from utils.modeling.local_context import SelfAttention, mask_context, weigh_context
from utils.modeling.model import TextModel, TextModelConfig
from utils.modeling.pooling import POOLINGS

IN_ONE_PASS = ["lcf_cdm", "lcf_cdw", "lcf_fusion", "lca", "lsa"]
IN_TWO = ["lcf_cdm_two_passes", "lcf_cdw_two_passes", "lcf_fusion_two_passes"]
NAMES = IN_ONE_PASS + IN_TWO
#: Of two pairs, [CLS] sentence [SEP] aspect [SEP]: how far tokens are from the aspect.
DISTANCES = [[0, 3, 2, 1, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0], [0, 1, 2, 3, 4, 0, 0, 0]]
#: And from its neighbours in their sentence; the second has none but itself, and the first none to its left.
RIGHT = [[0, 8, 7, 6, 5, 4, 3, 2, 1, 2, 0, 0, 0, 0], DISTANCES[1]]
#: And whether they are those of the sentence alone, [CLS] sentence [SEP].
ALONE = [[True] * 11 + [False] * 3, [True] * 6 + [False] * 2]
EXTRAS = {"distance": DISTANCES, "left_distance": DISTANCES, "right_distance": RIGHT, "alone": ALONE}


def make_model(family, name, window=2):
    torch.manual_seed(0)
    options = {"pooling": name, "pooling_options": {"local_window": window}}
    model = TextModel(TextModelConfig(encoder=FAMILIES[family], head=HeadConfig(("a", "b")), **options))
    for parameter in model.pooling.parameters():  # larger than they start, biases too
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def make_batch(side="right"):
    """Ids and mask of the pairs, padded on a side; and all extras."""
    length, generator = max(map(len, DISTANCES)), torch.Generator().manual_seed(1)
    ids = torch.randint(5, 99, (2, length), generator=generator)
    mask = torch.zeros(2, length, dtype=torch.long)
    extras = {name: torch.zeros(2, length, dtype=torch.int32) for name in EXTRAS}
    extras["alone"] = extras["alone"].bool()
    for row, values in enumerate(DISTANCES):
        place = slice(0, len(values)) if side == "right" else slice(length - len(values), length)
        mask[row, place] = 1
        for name, extra in extras.items():
            extra[row, place] = torch.tensor(EXTRAS[name][row], dtype=extra.dtype)
    return {"input_ids": ids * mask, "attention_mask": mask}, extras


# --- the reference ------------------------------------------------------------------------------------------


def slow_attention(module: SelfAttention, query_state, states, keys):
    """What one token with ``query_state`` gathers from the tokens numbered ``keys``, head by head."""
    width = len(query_state) // module.n_heads
    parts = []
    for head in range(module.n_heads):
        own = slice(head * width, (head + 1) * width)
        query = module.query(query_state)[own]
        scores = torch.stack([query @ module.key(states[key])[own] for key in keys]) / width**0.5
        shares = scores.exp() / scores.exp().sum()
        values = [share * module.value(states[key])[own] for share, key in zip(shares, keys, strict=True)]
        parts.append(sum(values))
    return torch.cat(parts)


def slow_weight(kind, distance, n, window):
    """The definition: 1 in the window; outside it 0 (mask), or 1 - d / n with d the tokens beyond it."""
    away = distance - 1
    if distance == 0:
        return 0.0
    if away <= window:
        return 1.0
    return 0.0 if kind == "mask" else 1 - (away - window) / n


def slow_views(pooling, row):
    """Of each kind of local states: how it weighs, by which distances, through what, and times what."""
    if pooling.name == "lsa":
        left, right = pooling.neighbour_weights
        yield "weigh", DISTANCES[row], pooling.local_attention, 1.0
        yield "weigh", EXTRAS["left_distance"][row], pooling.left_attention, left
        yield "weigh", EXTRAS["right_distance"][row], pooling.right_attention, right
    else:
        for kind in pooling.weighings:
            yield kind, DISTANCES[row], pooling.local_attention, 1.0


def read_alone(model, inputs, row):
    """The states of the sentence without the aspect behind it, (tokens, width), as the encoder reads it."""
    behind = len(ALONE[row]) - sum(ALONE[row]) + int(inputs["attention_mask"][row].flip(0).argmax())
    alone = {name: value[row : row + 1, : value.shape[1] - behind] for name, value in inputs.items()}
    return model.encoder(**alone).last_hidden_state[0][alone["attention_mask"][0].bool()]


def slow_states(pooling, states, row, read=None):
    """Global and local states of each of a text's tokens as one.

    ``read``: what the local states are made of, if not of ``states``; behind its end there is nothing.
    """
    sentence, parts = [i for i, distance in enumerate(DISTANCES[row]) if distance > 0], []
    for kind, distances, attention, factor in slow_views(pooling, row):
        weights = [slow_weight(kind, d, len(sentence), pooling.local_window) for d in distances]
        nothing = [torch.zeros_like(states[0])] * (len(states) - len(read if read is not None else states))
        source = [*(read if read is not None else states), *nothing]
        local = [weight * state for weight, state in zip(weights, source, strict=True)]
        parts.append([factor * slow_attention(attention, state, local, sentence).tanh() for state in local])
    return [
        pooling.linear(torch.cat([state, *(part[i] for part in parts)])) for i, state in enumerate(states)
    ]


def slow_pooling(pooling, states, row, read=None):
    """One text's vector from its tokens' states, (tokens, width), without padding."""
    joined = slow_states(pooling, states, row, read)
    return slow_attention(pooling.joint_attention, joined[0], joined, range(len(states)))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_slow_reference(family, name, side):
    model = make_model(family, name)
    inputs, extras = make_batch(side)
    with torch.no_grad():
        output = model(**inputs, extras=extras)
        for row in range(2):
            states = output.hidden_states[-1][row][inputs["attention_mask"][row].bool()]
            read = read_alone(model, inputs, row) if name in IN_TWO else None
            expected = slow_pooling(model.pooling, states, row, read)
            torch.testing.assert_close(output.pooled[row], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v3", "modernbert"])
def test_lcas_own_loss_is_the_slow_reference(family):
    model = make_model(family, "lca")
    inputs, extras = make_batch("left")
    with torch.no_grad():
        output = model(**inputs, extras=extras)
        for row, distances in enumerate(DISTANCES):
            states = output.hidden_states[-1][row][inputs["attention_mask"][row].bool()]
            joined, expected = slow_states(model.pooling, states, row), 0.0
            for state, away in zip(joined, distances, strict=True):
                inside = model.pooling.classifier(state).sigmoid()[0].double()
                if away > 0:  # a token of the sentence
                    expected -= (inside if away - 1 <= model.pooling.local_window else 1 - inside).log()
            torch.testing.assert_close(
                output.auxiliary[row], expected, atol=1e-4, rtol=1e-4, check_dtype=False
            )
    assert model.pooling.auxiliary_terms(extras) == 13


# --- properties ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_padding_and_other_texts_change_nothing(name):
    model, (inputs, extras) = make_model("bert", name), make_batch()
    alone, own = (
        {key: value[1:, : len(DISTANCES[1])] for key, value in tensors.items()}
        for tensors in (inputs, extras)
    )
    together, expected = model(**inputs, extras=extras).logits[1], model(**alone, extras=own).logits[0]
    torch.testing.assert_close(together, expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_learns_and_the_shares_are_of_the_text(name, family):
    model, (inputs, extras) = make_model(family, name).train(), make_batch()
    output = model(**inputs, extras=extras)
    (output.logits.square().sum() + (output.auxiliary.sum() if name == "lca" else 0)).backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    weights = model.pooling.weights(output.hidden_states, inputs["attention_mask"], **extras)
    torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.ones(2))
    assert not weights[inputs["attention_mask"][:, None].expand_as(weights) == 0].any()


@pytest.mark.parametrize(
    ("name", "extra"),
    [*((name, "distance") for name in NAMES), ("lsa", "left_distance"), ("lsa", "right_distance")],
)
def test_where_the_aspect_and_its_neighbours_stand_decides(name, extra):
    model, (inputs, extras) = make_model("bert", name), make_batch()
    moved = extras[extra].clone()
    moved[0, 1:10] = torch.tensor([9, 8, 7, 6, 5, 4, 3, 2, 1])
    before, after = (model(**inputs, extras=e).logits for e in (extras, extras | {extra: moved}))
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[1], after[1])


@pytest.mark.parametrize(("window", "kept"), [(0, [3, 4]), (2, range(1, 7)), (99, range(1, 10))])
def test_the_window_is_counted_from_the_aspects_ends(window, kept):
    distance = torch.tensor(DISTANCES[:1])
    masked, weighed = (function(distance, window)[0] for function in (mask_context, weigh_context))
    assert masked.nonzero().flatten().tolist() == list(kept)
    assert (weighed[list(kept)] == 1).all()
    assert (weighed[[0, 10, 11, 12, 13]] == 0).all()
    if window == 2:
        torch.testing.assert_close(weighed[7:10], 1 - torch.tensor([1.0, 2.0, 3.0]) / 9)


@pytest.mark.parametrize("name", IN_ONE_PASS)
def test_a_text_without_a_sentence_gives_numbers(name):
    model, (inputs, extras) = make_model("bert", name), make_batch()
    nowhere = {key: torch.zeros_like(value) for key, value in extras.items()}
    assert model(**inputs, extras=nowhere).logits.isfinite().all()


def test_heads_divide_the_width():
    assert [SelfAttention(width).n_heads for width in (8, 32, 100, 200, 384, 768, 1024)] == [
        1,
        1,
        1,
        2,
        6,
        12,
        16,
    ]


@pytest.mark.parametrize("name", IN_TWO)
def test_what_is_read_alone_sees_nothing_of_the_second_text(name):
    model, (inputs, extras) = make_model("bert", name), make_batch()
    readings = []
    hook = model.encoder.register_forward_hook(lambda *call: readings.append(call[-1].last_hidden_state))
    other = inputs["input_ids"].clone()
    other[0, 11:13] += 1  # the aspect's tokens
    for ids in (inputs["input_ids"], other):
        model(**inputs | {"input_ids": ids}, extras=extras)
    hook.remove()
    (pair, one), (another, same) = readings[:2], readings[2:]
    assert not torch.allclose(pair[0, :11], another[0, :11])
    torch.testing.assert_close(one[0, :11], same[0, :11])


def test_neighbours_count_fully_before_training():
    model = TextModel(TextModelConfig(encoder=FAMILIES["bert"], head=HeadConfig(("a",)), pooling="lsa"))
    assert model.pooling.neighbour_weights.tolist() == [1.0, 1.0]


def test_settings_are_saved_with_the_model(tmp_path):
    model = make_model("bert", "lcf_cdw", window=7)
    model.save_pretrained(tmp_path)
    loaded = TextModel.from_pretrained(tmp_path)
    assert loaded.pooling.local_window == 7
    assert set(NAMES) <= set(POOLINGS)
