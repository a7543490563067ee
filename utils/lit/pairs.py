"""Texts as an Explainer takes them: one alone, or a question with its context."""

from collections.abc import Sequence

from transformers import BatchEncoding, PreTrainedTokenizerBase

from utils.data.table import clean_text
from utils.data.windows import cut

#: A text; or a question and its context, of which the latter is explained.
Text = str | tuple[str, str]


def explained_text(text: Text) -> str:
    """The clean text whose tokens are explained."""
    return clean_text(text if isinstance(text, str) else text[1])


def tokenize_texts(
    texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, max_length: int, **options
) -> BatchEncoding:
    """The tokenizer's output, unpadded, of texts and contexts as far as ``max_length`` leaves room for them.

    With ``return_special_tokens_mask``, the tokens of a question count as special ones too.
    """
    cleaned = [explained_text(text) for text in texts]
    questions = [clean_text(text[0]) for text in texts if not isinstance(text, str)]
    if not questions:
        return tokenizer(cleaned, truncation=True, max_length=max_length, **options)
    asked = cut(questions, tokenizer, max_length // 4)
    encoded = tokenizer(asked, cleaned, truncation="only_second", max_length=max_length, **options)
    if "special_tokens_mask" in encoded:
        numbers = [encoded.sequence_ids(row) for row in range(len(texts))]
        encoded["special_tokens_mask"] = [[int(number != 1) for number in row] for row in numbers]
    return encoded
