"""The question sample of data/questions/: its answers are where it says, and its files agree."""

import json
import re

import pandas as pd
import pytest

from utils.machine.runtime import ROOT

FOLDER = ROOT / "data" / "questions"
COLUMNS = ["id", "question", "context", "answer", "start", "topic", "text_id"]


def read(path):
    """A CSV file with every cell as the string that stands there."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def table():
    return read(FOLDER / "train.csv")


@pytest.fixture(scope="module")
def squad():
    return json.loads((FOLDER / "train.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def questions(squad):
    """The JSON's questions: (topic, context, question)."""
    return [
        (article["title"], paragraph["context"], question)
        for article in squad["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def test_every_answer_stands_at_its_offset(table, questions):
    for _, context, question in questions:
        for answer in question["answers"]:
            start, text = answer["answer_start"], answer["text"]
            assert text, question
            assert context[start : start + len(text)] == text, question
    for row in table[table["answer"] != ""].itertuples():
        assert row.context[int(row.start) : int(row.start) + len(row.answer)] == row.answer, row.id


def test_answers_are_short_and_begin_and_end_at_a_words_edge(questions):
    for _, context, question in questions:
        for answer in question["answers"]:
            start, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
            assert len(answer["text"].split()) <= 13, question
            assert not re.search(r"\w\w", context[max(start - 1, 0) : start + 1]), question
            assert not re.search(r"\w\w", context[end - 1 : end + 1]), question


def test_a_question_lists_each_answer_once_and_the_shortest_first(questions):
    for _, _, question in questions:
        texts = [answer["text"] for answer in question["answers"]]
        assert len(set(texts)) == len(texts) <= 3, question
        assert texts == sorted(texts, key=len), question
        assert question["is_impossible"] == (not texts), question


def test_json_and_csv_agree(table, squad, questions):
    assert squad["version"] == "v2.0"
    assert list(table.columns) == COLUMNS
    rows = [
        {
            "id": question["id"],
            "question": question["question"],
            "context": context,
            "answer": question["answers"][0]["text"] if question["answers"] else "",
            "start": str(question["answers"][0]["answer_start"]) if question["answers"] else "",
            "topic": topic,
        }
        for topic, context, question in questions
    ]
    pd.testing.assert_frame_equal(pd.DataFrame(rows), table.drop(columns="text_id"))


@pytest.mark.parametrize("name", ["train.csv", "test.csv"])
def test_contexts_are_the_samples_excerpts(name):
    texts = read(ROOT / "data" / "sample" / name).set_index("id")
    table = read(FOLDER / name)
    assert table["context"].tolist() == texts.loc[table["text_id"], "excerpt"].tolist()
    assert table["topic"].tolist() == texts.loc[table["text_id"], "topic"].tolist()
    assert set(table["topic"]) == set(texts["topic"])


def test_the_sample_is_large_enough(table):
    unanswerable = table["answer"] == ""
    assert len(table) >= 330
    assert 0.2 <= unanswerable.mean() <= 0.4
    assert table["text_id"].nunique() >= 170
    assert (unanswerable.groupby(table["topic"]).agg(["min", "max"]) == [False, True]).all(axis=None)


def test_no_id_and_no_question_twice(table):
    both = pd.concat([table, read(FOLDER / "test.csv")])
    assert both["id"].is_unique
    words = both["question"].str.lower().str.replace(r"\W+", " ", regex=True).str.strip()
    assert words.is_unique, words[words.duplicated()].tolist()
    assert both["question"].str.endswith("?").all()


def test_the_test_set_shows_no_answers():
    test, submission = read(FOLDER / "test.csv"), read(FOLDER / "sample_submission.csv")
    assert list(test.columns) == ["id", "question", "context", "topic", "text_id"]
    assert len(test) >= 40
    assert list(submission.columns) == ["id", "answer"]
    assert submission["id"].tolist() == test["id"].tolist()
    assert (submission["answer"] == "").all()
