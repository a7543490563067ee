import dataclasses
import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from utils.data import tokens
from utils.data.table import check_table
from utils.machine.encoders import encoder_source
from utils.tasks import make_task


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=120),
    batch_size=st.integers(1, 16),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 9),
)
def test_batches_hold_every_row_once_and_are_a_function_of_seed_and_epoch(lengths, batch_size, seed, epoch):
    batches = tokens.training_batches(lengths, batch_size, seed, epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) <= batch_size
    assert len(batches) == -(-len(lengths) // batch_size)
    assert batches == tokens.training_batches(lengths, batch_size, seed, epoch)
    batches = tokens.evaluation_batches(lengths, batch_size)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))


def test_epochs_differ_and_lengths_within_a_batch_are_similar():
    lengths = np.random.default_rng(0).integers(20, 256, 600).tolist()
    batches = tokens.training_batches(lengths, 16, 2021, 0)
    assert batches != tokens.training_batches(lengths, 16, 2021, 1)

    def padded(batches):
        return sum(max(lengths[row] for row in batch) * len(batch) for batch in batches)

    rows = np.random.default_rng(1).permutation(600)
    assert padded(batches) < 0.8 * padded([rows[i : i + 16] for i in range(0, 600, 16)])


@pytest.mark.parametrize(("max_length", "multiple"), [(64, 8), (12, 4), (13, 1)])
def test_a_loader_pads_to_its_longest_text_and_leaves_the_random_state_alone(
    rows, plain, workspace, max_length, multiple
):
    """It pads to a multiple of 8, or of 4, 2 or 1 where 8 does not divide ``max_length``."""
    tokenizer = AutoTokenizer.from_pretrained(encoder_source("tiny"))
    tokenizer.model_max_length = max_length
    rows["excerpt"] = [" ".join("a" * (i + 1)) for i in range(12)]
    config = dataclasses.replace(plain, max_length=max_length)
    task = make_task(config)
    examples = task.encode(task.check(check_table(rows, config), "the table"), tokenizer)
    assert examples.lengths == sorted(examples.lengths)
    before = torch.get_rng_state()
    batches = list(tokens.make_loader(examples, [[0, 3], [11, 2]], tokenizer))
    assert torch.equal(before, torch.get_rng_state())
    longest = [examples.lengths[3], examples.lengths[11]]
    assert longest == [6, min(14, max_length)]
    padded = [batch.inputs["input_ids"].shape[1] for batch in batches]
    assert padded == [math.ceil(length / multiple) * multiple for length in longest]
    assert max(padded) <= max_length
    assert batches[0].inputs["attention_mask"].sum(dim=1).tolist() == [
        examples.lengths[0],
        examples.lengths[3],
    ]
    assert batches[1].targets.flatten().tolist() == pytest.approx([1.1, 0.2])


def test_truncated_texts_keep_their_special_tokens(workspace):
    tokenizer = AutoTokenizer.from_pretrained(encoder_source("tiny"))
    inputs, lengths = tokens.tokenize(["many words " * 50], tokenizer, 16)
    assert lengths == [16]
    assert inputs["input_ids"][0] == tokenizer.cls_token_id
    assert inputs["input_ids"][-1] == tokenizer.sep_token_id


def test_tokens_take_four_bytes_each_and_are_those_of_each_text_alone(rows, plain, workspace):
    tokenizer = AutoTokenizer.from_pretrained(encoder_source("tiny"))
    table = check_table(pd.concat([rows] * 100, ignore_index=True).assign(id=range(1200)), plain)
    table[plain.text_column] += [" word" * (i % 7) for i in range(1200)]
    examples = make_task(plain).encode(table, tokenizer, plain.max_length)
    for row in (0, 1, 999, 1000, 1199):
        alone = tokenizer(table[plain.text_column][row])
        for name, values in examples.tokens.items():
            assert values[examples.slice(row)].tolist() == alone[name]
        assert examples.lengths[row] == len(alone["input_ids"])
    n_bytes = sum(values.nbytes for values in examples.tokens.values())
    assert n_bytes == 4 * len(examples.tokens) * sum(examples.lengths)


def test_extras_are_padded_with_the_tokens_on_the_tokenizers_side(rows, plain, workspace):
    """Extras have a value per token. They are no part of what the encoder is given."""
    tokenizer = AutoTokenizer.from_pretrained(encoder_source("tiny"))
    examples = make_task(plain).encode(check_table(rows, plain, targets=False), tokenizer, 16)
    examples.extras["distance"] = np.concatenate([np.arange(1, length + 1) for length in examples.lengths])
    for side in ("right", "left"):
        tokenizer.padding_side = side
        (batch,) = tokens.make_loader(examples, [[0, 5]], tokenizer)
        mask = batch.inputs["attention_mask"].bool()
        assert set(batch.inputs) == {"input_ids", "token_type_ids", "attention_mask"}
        for row, example in enumerate((0, 5)):
            assert batch.extras["distance"][row][mask[row]].tolist() == list(
                range(1, examples.lengths[example] + 1)
            )
        assert not batch.extras["distance"][~mask].any()
    one, other = batch.split(2)
    assert torch.equal(
        torch.cat([one.extras["distance"], other.extras["distance"]]), batch.extras["distance"]
    )
    assert torch.equal(one.inputs["input_ids"], batch.inputs["input_ids"][:1])


def make_examples(rows, config):
    tokenizer = AutoTokenizer.from_pretrained(encoder_source("tiny"))
    return make_task(config).encode(check_table(rows, config, targets=False), tokenizer, 16), tokenizer


def assert_same_batch(batch, expected):
    assert batch.inputs.keys() == expected.inputs.keys()
    assert all(torch.equal(batch.inputs[name], expected.inputs[name]) for name in expected.inputs)
    torch.testing.assert_close(batch.targets, expected.targets, rtol=0, atol=0, equal_nan=True)


def test_what_makes_batches_can_be_sent_to_another_process(rows, plain, workspace):
    examples, tokenizer = make_examples(rows, plain)
    loader = tokens.make_loader(examples, [[0, 5]], tokenizer)
    collate = pickle.loads(pickle.dumps(loader.collate_fn))
    assert_same_batch(collate([0, 5]), next(iter(loader)))


@pytest.mark.full
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_batches_can_be_made_by_processes_that_are_started_afresh(method, rows, plain, workspace):
    """As macOS starts them, and Linux from Python 3.14 on."""
    examples, tokenizer = make_examples(rows, plain)
    here = list(tokens.make_loader(examples, [[0, 5], [1]], tokenizer))
    loader = tokens.make_loader(examples, [[0, 5], [1]], tokenizer, num_workers=1)
    loader.multiprocessing_context = method
    for batch, expected in zip(loader, here, strict=True):
        assert_same_batch(batch, expected)


@pytest.mark.parametrize(
    ("special", "expected"),
    [
        ({"eos_token": "</s>", "pad_token": "[PAD]"}, "</s>"),
        ({"bos_token": "<s>", "unk_token": "[UNK]", "pad_token": "[PAD]"}, "<s>"),
        ({"unk_token": "[UNK]", "pad_token": "[PAD]"}, "[UNK]"),
        ({"pad_token": "[PAD]"}, "[PAD]"),
        ({}, "a"),
    ],
)
def test_a_text_without_tokens_is_read_as_one(special, expected):
    """As by GPT-2's tokenizer, which adds no special tokens."""
    vocabulary = {"a": 0, "b": 1, "[PAD]": 2, "[UNK]": 3, "</s>": 4, "<s>": 5}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    encoded, lengths = tokens.tokenize(["a b", "", "b"], tokenizer, 8)
    assert lengths == [2, 1, 1]
    assert encoded["input_ids"].tolist() == [0, 1, vocabulary[expected], 1]
    assert {len(values) for values in encoded.values()} == {4}
