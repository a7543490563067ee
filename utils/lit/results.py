"""What LIT compares with the truth: errors and metrics of the texts whose truth is known, and the page."""

from lit_nlp.api import components, dtypes, layout, types
from lit_nlp.components import classification_results, curves, metrics, regression_results, thresholder

from utils.lit.spec import View
from utils.lit.wrappers import unwrap


class RegressionResults(regression_results.RegressionInterpreter):
    """LIT's fails on a text whose target is not known."""

    def run(self, inputs, lit_model, lit_dataset, model_outputs=None, config=None):
        return super().run(list(map(_known, inputs)), lit_model, lit_dataset, model_outputs, config)


class LabelResults(classification_results.ClassificationInterpreter):
    """LIT's calls a text wrong whose label is not known, and does not know how grades are predicted."""

    def run(self, inputs, lit_model, lit_dataset, model_outputs=None, config=None):
        values = model_outputs or lit_model.predict(inputs)
        decided = list(map(unwrap(lit_model).view.decided, values))
        results = super().run(list(map(_known, inputs)), lit_model, lit_dataset, decided, config)
        return [
            {
                name: dtypes.ClassificationResult(row[name], result.predicted_class, result.correct)
                for name, result in by_field.items()
            }
            for row, by_field in zip(values, results, strict=True)
        ]


def _known(example: types.JsonDict) -> types.JsonDict:
    return {name: value for name, value in example.items() if value is not None and value != ""}


class KnownLabels(components.Interpreter):
    """LIT counts texts whose label is not known among the negative ones."""

    def run(self, inputs, lit_model, lit_dataset, model_outputs=None, config=None):
        truth, values = unwrap(lit_model).view.dataset_fields(), model_outputs or lit_model.predict(inputs)
        pairs = [pair for pair in zip(inputs, values, strict=True) if truth.keys() <= _known(pair[0]).keys()]
        inputs, values = map(list, zip(*pairs, strict=True)) if pairs else ([], [])
        return super().run(inputs, lit_model, lit_dataset, values, config)


class Curves(KnownLabels, curves.CurvesInterpreter):
    pass


class Thresholder(KnownLabels, thresholder.Thresholder):
    pass


class Seen(metrics.SimpleMetrics):
    """Metrics that say how many of the texts the model was trained on."""

    def meta_spec(self) -> types.Spec:
        about = "Share of these texts that the model was trained on. Above 0, the other numbers flatter it."
        seen = types.MetricResult(best_value=types.MetricBestValue.ZERO, description=about)
        return super().meta_spec() | {"seen": seen}

    def run(self, inputs, lit_model, lit_dataset, model_outputs=None, config=None):
        results = super().run(inputs, lit_model, lit_dataset, model_outputs, config)
        share = unwrap(lit_model).seen(inputs) if inputs else 0.0
        return [one | {"metrics": one["metrics"] and one["metrics"] | {"seen": share}} for one in results]


class RegressionMetrics(Seen, metrics.RegressionMetrics):
    """The RMSE and correlations of the rows whose target is known."""

    def meta_spec(self) -> types.Spec:
        about = "Root mean squared error, in the target's unit. Closer to 0 is better."
        rmse = types.MetricResult(best_value=types.MetricBestValue.ZERO, description=about)
        return {"rmse": rmse} | {name: field for name, field in super().meta_spec().items() if name != "mse"}

    def compute(self, labels, preds, **options):
        known = [pair for pair in zip(labels, preds, strict=True) if pair[0] is not None]
        if not known:
            return {}
        scores = super().compute(*map(list, zip(*known, strict=True)), **options)
        return {"rmse": scores.pop("mse") ** 0.5, **scores}


class LabelMetrics(Seen, metrics.MulticlassMetricsImpl):
    """LIT's metrics of the rows whose label is known."""

    def run(self, inputs, lit_model, lit_dataset, model_outputs=None, config=None):
        values = model_outputs or lit_model.predict(inputs)
        decided = list(map(unwrap(lit_model).view.decided, values))
        return super().run(inputs, lit_model, lit_dataset, decided, config)

    def compute(self, labels, preds, label_spec, pred_spec, config=None, **options):
        known = [i for i, label in enumerate(labels) if label in pred_spec.vocab]
        if not known:
            return {}
        labels, preds = [labels[i] for i in known], [preds[i] for i in known]
        margins = [config[i] for i in known] if config else None
        return super().compute(labels, preds, label_spec, pred_spec, margins, **options)


METRICS = {
    "regression": RegressionMetrics(),
    "classification": metrics.ClassificationMetricsWrapper(LabelMetrics()),
}


_m = layout.LitModuleName
_OF_LABELS = {"Classes": [_m.ConfusionMatrixModule, _m.CurvesModule, _m.ThresholderModule]}


def make_layouts(view: View) -> dict[str, layout.LitCanonicalLayout]:
    """The page: the table and the map of embeddings above, one tab for each question below.

    A narrow page has fewer modules side by side. LIT leaves out the modules that have nothing to show.
    """
    labels = "MulticlassPreds" in view.flipped
    of_text = [_m.RegressionModule, *([_m.ClassificationModule] if labels else [])]
    texts, map_of_texts = [_m.DataTableModule, _m.DatapointEditorModule], [_m.EmbeddingsModule]
    lower = {
        "Predictions": of_text,
        "Scalars": [_m.ScalarModule],
        "Dive": [_m.DiveModule],
        "Explanations": [*of_text, _m.SalienceMapModule],
        "Salience Clustering": [_m.SalienceClusteringModule],
        "Metrics": [_m.MetricsModule],
        **(_OF_LABELS if labels else {}),
        "Counterfactuals": [_m.GeneratorModule],
        "TCAV": [_m.TCAVModule],
    }
    description = "Fold models, and the texts that each held out."
    return {
        name: layout.LitCanonicalLayout(upper=upper, lower=lower, description=description)
        for name, upper in (
            ("wide", {"Main": [*map_of_texts, *texts]}),
            ("narrow", {"Texts": texts, "Map": map_of_texts}),
        )
    }
