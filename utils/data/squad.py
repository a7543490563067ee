"""SQuAD's JSON, version 1 and 2, as a table with a row per question."""

from collections.abc import Iterator

import pandas as pd

from utils.config import InputError

#: The texts of all true answers, (rows,) of tuples. No column of a user's table has this name.
ANSWERS = "_answers"


def is_squad(table: pd.DataFrame) -> bool:
    """Whether ``table`` is what ``read_table`` makes of a JSON object with a list "data"."""
    return len(table) == 1 and "data" in table and isinstance(table["data"].iloc[0], list)


def flatten(table: pd.DataFrame, columns: dict[str, str], where: str) -> pd.DataFrame:
    """A row per question, in the file's order; answer and start are empty where there is no answer.

    Args:
        table: for which ``is_squad`` holds.
        columns: the name of each of the columns id, question, context, answer and start. There are also
            "title" (of the article) and ``ANSWERS``.

    Raises InputError naming the place in the file that is not SQuAD's format.
    """
    rows = []
    for title, context, question in _questions(table["data"].iloc[0], where):
        place = f"question {question.get('id', len(rows) + 1)!r}"
        answers = _list(question, "answers", place, where, default=[])
        answers = [] if question.get("is_impossible") else answers
        if not all(isinstance(one, dict) and isinstance(one.get("text"), str) for one in answers):
            raise InputError(f"{where} is not in SQuAD's format: {place} has an answer without 'text'.")
        first = answers[0] if answers else {}
        row = {
            "id": question.get("id", ""),
            "question": question.get("question", ""),
            "context": context,
            "answer": first.get("text", ""),
            "start": first.get("answer_start", ""),
        }
        named = {columns[name]: value for name, value in row.items()}
        rows.append(named | {"title": title, ANSWERS: tuple(one["text"] for one in answers)})
    if not rows:
        raise InputError(f"{where} holds no question; name another file.")
    return pd.DataFrame(rows, dtype=object)


def _questions(articles: list, where: str) -> Iterator[tuple[str, str, dict]]:
    """Each question with its article's title and its context."""
    for number, article in enumerate(articles, start=1):
        place = f"article {number}"
        for paragraph in _list(article, "paragraphs", place, where):
            questions = _list(paragraph, "qas", f"a paragraph of {place}", where)
            if not isinstance(paragraph.get("context"), str):
                raise _not_squad(where, f"a paragraph of {place}", "context")
            for question in questions:
                if not isinstance(question, dict):
                    raise _not_squad(where, f"a question of {place}", "question")
                yield str(article.get("title", place)), paragraph["context"], question


def _list(holder, name: str, place: str, where: str, default: list | None = None) -> list:
    value = holder.get(name, default) if isinstance(holder, dict) else None
    if not isinstance(value, list):
        raise _not_squad(where, place, name)
    return value


def _not_squad(where: str, place: str, name: str) -> InputError:
    return InputError(
        f"{where} is not in SQuAD's format: {place} has no {name!r}; save it as a CSV with the columns id, "
        "question, context, answer and start."
    )
