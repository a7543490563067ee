"""SQuAD's JSON as a table, and files that are something else."""

import json

import pytest

from tests.tasks.questions import make_questions, write_squad
from utils.config import InputError
from utils.data.reading import read_table
from utils.data.squad import ANSWERS, flatten, is_squad

COLUMNS = {name: name for name in ("id", "question", "context", "answer", "start")}


@pytest.mark.parametrize("version", ["1.1", "v2.0"])
def test_both_versions_give_the_rows_that_were_written(tmp_path, version):
    table = make_questions()
    read = read_table(write_squad(tmp_path / "squad.json", table, version, more=["another"]))
    assert is_squad(read)
    assert not is_squad(table)
    rows = flatten(read, COLUMNS, "squad.json")
    assert rows[["id", "question", "context", "answer", "title"]].equals(
        table[["id", "question", "context", "answer", "title"]].astype(object)
    )
    assert rows["start"].map(str).tolist() == table["start"].tolist()
    expected = [(answer, "another") if answer else () for answer in table["answer"]]
    assert rows[ANSWERS].tolist() == expected


def test_what_is_plausible_but_no_answer_is_none(tmp_path):
    question = {
        "id": "1",
        "question": "?",
        "is_impossible": True,
        "answers": [{"text": "a", "answer_start": 0}],
    }
    data = {"data": [{"paragraphs": [{"context": "a b", "qas": [question]}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(data))
    rows = flatten(read_table(tmp_path / "squad.json"), COLUMNS, "squad.json")
    assert rows["answer"].tolist() == [""]
    assert rows["title"].tolist() == ["article 1"]


@pytest.mark.parametrize(
    ("articles", "sentence"),
    [
        ([], "holds no question"),
        ([{"title": "a"}], "article 1 has no 'paragraphs'"),
        (["text"], "article 1 has no 'paragraphs'"),
        ([{"paragraphs": [{"context": "a"}]}], "a paragraph of article 1 has no 'qas'"),
        ([{"paragraphs": [{"qas": []}]}], "a paragraph of article 1 has no 'context'"),
        ([{"paragraphs": [{"context": "a", "qas": ["?"]}]}], "a question of article 1 has no 'question'"),
        ([{"paragraphs": [{"context": "a", "qas": [{"id": "7", "answers": "a"}]}]}], "'7' has no 'answers'"),
        ([{"paragraphs": [{"context": "a", "qas": [{"id": "7", "answers": ["a"]}]}]}], "without 'text'"),
    ],
)
def test_what_is_not_squads_format_is_refused_with_its_place(tmp_path, articles, sentence):
    (tmp_path / "squad.json").write_text(json.dumps({"version": "1.1", "data": articles}))
    with pytest.raises(InputError, match=f"^squad.json .*{sentence}"):
        flatten(read_table(tmp_path / "squad.json"), COLUMNS, "squad.json")
