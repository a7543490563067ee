"""Windows of a context: they cover it, and answers are found again in the text as it was given."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from utils.config import InputError
from utils.data.table import clean_text
from utils.data.windows import START, STOP, encode_windows, kept_characters, tokens_of
from utils.machine.encoders import encoder_source


@pytest.fixture(scope="module", params=["pieces", "bytes", "marks"])
def tokenizer(request):
    """The tiny encoder's word pieces; two kinds of tokens that begin with the space before a word."""
    if request.param == "pieces":
        return AutoTokenizer.from_pretrained(encoder_source("tiny"))
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    alphabet = pre_tokenizers.ByteLevel.alphabet() if request.param == "bytes" else []
    splitter = pre_tokenizers.ByteLevel if request.param == "bytes" else pre_tokenizers.Metaspace
    made.pre_tokenizer = splitter()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    options = {"special_tokens": [*names.values()], "initial_alphabet": alphabet, "show_progress": False}
    corpus = ["Words here and an end. Who is it? one two three four five six aBé 's -9 a b c d"] * 3
    made.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=330, **options))
    ends = [("<s>", 0), ("</s>", 1)]
    pair = "<s> $A </s> </s> $B </s>"
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair=pair, special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


TEXTS = st.text(alphabet="aBé 's.\n\t\u00a0\u2009-9", max_size=80)


@given(TEXTS)
def test_each_character_of_a_clean_text_is_found_in_the_original(text):
    clean, places = clean_text(text), kept_characters(text)
    assert len(places) == len(clean)
    for character, place in zip(clean, places, strict=True):
        assert text[place] == character or (character == " " and text[place].isspace())
    assert (np.diff(places) > 0).all()


@settings(max_examples=40)
@given(text=TEXTS, start=st.integers(0, 60), length=st.integers(1, 12), stride=st.integers(0, 40))
def test_a_span_is_found_again_in_the_text_as_it_was_given(tokenizer, text, start, length, stride):
    """All windows that hold it place it on the same characters: those of the tokens that it touches."""
    text = "Words here " + text + " and an end"
    span = np.array([[start, min(start + length, len(text))]])
    examples = encode_windows(["Who is it?"], [text], tokenizer, 24, stride)
    assert max(examples.lengths) <= 24
    found = set()
    for window, (first, last) in enumerate(tokens_of(span, examples).astype(int)):
        part = examples.slice(window)
        if last:
            found.add((examples.extras[START][part][first], examples.extras[STOP][part][last]))
    answer = text[slice(*span[0])]
    covered = [text[a:b] for a, b in found]
    assert all(answer.strip() in one for one in covered)
    shown = examples.extras[STOP] > examples.extras[START]
    seen = {
        i
        for a, b in zip(examples.extras[START][shown], examples.extras[STOP][shown], strict=True)
        for i in range(a, b)
    }
    assert seen >= {i for i, character in enumerate(text) if not character.isspace()}, (
        "the windows leave a gap"
    )


def test_a_long_question_leaves_room_and_changes_no_other_rows_windows(tokenizer):
    rows = {"short?": "one two three " * 20, "word " * 300: "four five six " * 20}
    together = encode_windows([*rows], [*rows.values()], tokenizer, 40, 64)
    for row, (question, context) in enumerate(rows.items()):
        alone = encode_windows([question], [context], tokenizer, 40, 64)
        windows = np.flatnonzero(together.row == row)
        assert len(windows) == len(alone) > 1
        for window, same in zip(windows, range(len(alone)), strict=True):
            for values, others in ((together.tokens, alone.tokens), (together.extras, alone.extras)):
                for name in values:
                    one, other = values[name][together.slice(window)], others[name][alone.slice(same)]
                    np.testing.assert_array_equal(one, other)


def test_an_answer_that_no_window_holds_whole_is_placed_on_the_first_token(tokenizer):
    text = "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 2
    examples = encode_windows(["?"], [text], tokenizer, 20, 4)
    assert len(examples) > 2
    assert not tokens_of(np.array([[0, len(text)]]), examples).any()
    assert not tokens_of(np.array([[-1, -1]]), examples).any()


def test_a_tokenizer_without_offsets_is_refused(tokenizer):
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match="Slow does not say where its tokens stand"):
        encode_windows(["?"], ["a"], Slow(), 20, 4)
