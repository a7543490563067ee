"""A table whose ids, texts, labels and names of columns are markup, and a check that a page shows text."""

import nbformat
import pandas as pd
from bs4 import BeautifulSoup
from IPython.core.formatters import DisplayFormatter
from nbconvert import HTMLExporter

STRINGS = (
    "<script>hostile(1)</script>",
    "<img src=x onerror=hostile(1)>",
    "</td></pre><b class=hostile>",
    "' hostile=1 \"hostile=1",
    "&lt;hostile&gt;",
    "$hostile$",
    "$\\frac{hostile",
    "\\(hostile\\)",
    "**hostile** and `hostile`",
    "[hostile](javascript:hostile)",
    "![hostile](http://hostile.example/x.png)",
    "]]> hostile <!-- --> hostile {{hostile}}",
)
#: Settings for the table below, two targets among them.
COLUMNS = {
    "id_column": STRINGS[8],
    "text_column": STRINGS[1],
    "target_columns": f"{STRINGS[5]},{STRINGS[0]}",
    "group_column": STRINGS[2],
    "fold_by": "group",
}


def make_table(rows: int = 60) -> pd.DataFrame:
    """A row per number, with a text that grows with it, in six groups."""
    strings = [STRINGS[i % len(STRINGS)] for i in range(rows)]
    id_column, text_column, targets, group_column, _ = COLUMNS.values()
    columns = {id_column: [f"{i} {string}" for i, string in enumerate(strings)]}
    columns[text_column] = [f"{strings[i]} It rains. {'The old man reads. ' * i}" for i in range(rows)]
    columns |= {name: [i / rows + j for i in range(rows)] for j, name in enumerate(targets.split(","))}
    columns[group_column] = [STRINGS[i % 6] for i in range(rows)]
    return pd.DataFrame(columns | {"topic": [STRINGS[6 + i % 6] for i in range(rows)]})


def exported(*shown) -> str:
    """The HTML page that nbconvert makes of a notebook that shows these objects."""
    formatter = DisplayFormatter()
    outputs = [nbformat.v4.new_output("display_data", data=formatter.format(item)[0]) for item in shown]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=outputs)])
    return HTMLExporter().from_notebook_node(notebook)[0]


def check_page(page: str) -> str:
    """No element, attribute, script or formula of the page may be the table's. Returns the page's text."""
    soup = BeautifulSoup(page, "lxml")
    for element in soup.find_all(True):
        attributes = {name: value for name, value in element.attrs.items() if name != "alt"}
        assert "hostile" not in f"{element.name} {attributes}", element
        assert element.name not in ("script", "style") or "hostile" not in str(element.string), element
    for text in soup.find_all(string=lambda text: "hostile" in text and any(sign in text for sign in "$\\")):
        plain = text.find_parent(["pre", "code"]) or text.find_parent(class_="mathjax_ignore")
        assert plain, f"a formula: {text}"
    return soup.get_text()
