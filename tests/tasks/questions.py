"""Questions on short texts, with white space of all kinds, for the tests of the span task."""

import json

import pandas as pd

NAMES = ["Ada", "Ben", "Cleo", "Dov", "Eve", "Finn", "Gus", "Hana"]
THINGS = [
    "red kites",
    "old maps",
    "green tea",
    "warm bread",
    "blue ink",
    "tall ships",
    "cold rain",
    "silver bells",
]


CONTEXT = (
    "  {name}  sells {thing}\nin the\tmarket of {city}.\u00a0Nobody knows  why,\n\n"
    "or since when. {name} stays."
)


def make_questions(n_contexts=8):
    """Three questions on each context: two with an answer, one without."""
    rows = []
    for i in range(n_contexts):
        name, thing, city = NAMES[i % 8], THINGS[(3 * i) % 8], ["Rome", "Lima"][i // 8]
        context = CONTEXT.format(name=name, thing=thing, city=city)
        questions = {
            f"What does  {name} sell?": thing,
            f"Where is {name}?": f"market of {city}",
            "Since which year?": "",
        }
        for number, (question, answer) in enumerate(questions.items()):
            start = context.index(answer) if answer else ""
            row = {"id": f"q{i}-{number}", "question": question, "context": context, "answer": answer}
            rows.append(row | {"start": str(start), "title": f"article {i // 2}"})
    return pd.DataFrame(rows)


def write_squad(path, table, version="v2.0", more=()):
    """The table as SQuAD's JSON; ``more`` answers are added to each question that has one."""
    articles = []
    for title, article in table.groupby("title", sort=False):
        paragraphs = []
        for context, questions in article.groupby("context", sort=False):
            qas = []
            for row in questions.itertuples():
                answers = [{"text": row.answer, "answer_start": int(row.start)}] if row.answer else []
                answers += [{"text": text, "answer_start": 0} for text in more if row.answer]
                one = {"id": row.id, "question": row.question, "answers": answers}
                qas.append(one | ({} if version == "1.1" else {"is_impossible": not answers}))
            paragraphs.append({"context": context, "qas": qas})
        articles.append({"title": title, "paragraphs": paragraphs})
    path.write_text(json.dumps({"version": version, "data": articles}), encoding="utf-8")
    return path
