"""Texts that come from LIT's page: edited, generated, or read back from its address."""

import math
from collections.abc import Iterable

from lit_nlp.api import components, dataset, types

from utils.lit.spec import View
from utils.lit.wrappers import LENGTH, TextDataset, count_words


class NewTexts(components.Annotator):
    """Reads new texts' numbers, which the page's address holds as text, and takes a borrowed truth away.

    An edited text still has the id and the truth of the row that it was made of; its own truth is not known.
    """

    def __init__(self, datasets: Iterable[TextDataset], view: View):
        config = view.task.config
        self._texts, self._id = config.text_columns, config.id_column
        self._truth = (*view.dataset_fields(), "standard_error")
        self._rows = {row[self._id]: row for texts in datasets for row in texts.examples}

    def annotate(self, inputs: list[types.JsonDict], dataset: dataset.Dataset, dataset_spec_to_annotate=None):
        spec = dataset.spec()
        for row in inputs:
            row.update({name: read_value(row.get(name), field) for name, field in spec.items()})
            if isinstance(spec.get(LENGTH), types.Scalar):
                row[LENGTH] = count_words(row[self._texts[0]])
            origin = self._rows.get(row.get(self._id, ""), row)
            if row and any(origin[column] != row[column] for column in self._texts):
                borrowed = [name for name in self._truth if name in spec and row[name] == origin[name]]
                row.update({name: read_value(None, spec[name]) for name in borrowed})


def read_value(value, field: types.LitType):
    """A value as its field has it: a number or None, a label of the field's own or "", or text."""
    if isinstance(field, types.Scalar):
        try:
            number = float(value)
        except (TypeError, ValueError):
            return None
        return number if math.isfinite(number) else None
    known = getattr(field, "vocab", None)
    return "" if value is None or (known and value not in known) else value
