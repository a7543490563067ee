"""TextModels as transformers' own kinds of models, which its pipelines and other people's code expect."""

import torch
from transformers.modeling_outputs import QuestionAnsweringModelOutput, SequenceClassifierOutput

from .losses import LOSSES
from .model import TextModel, TextModelConfig


def scores(config: TextModelConfig, logits: torch.Tensor) -> torch.Tensor:
    """What a model's outputs, (batch, outputs), mean: numbers, or the classes' probabilities.

    Of several targets they stand one after the other; of labels of which a text may have several, there is
    the probability of each.
    """
    loss, labels = LOSSES.get(config.task.get("loss", "")), config.head.get("labels")
    if loss is None or not labels:
        return logits
    if config.problem_type == "multi_label_classification":
        return logits.sigmoid()
    parts = logits.split([loss.n_outputs(len(names)) for names in labels], dim=-1)  # type: ignore[attr-defined]
    return torch.cat([loss.probabilities(part) for part in parts], dim=-1)  # type: ignore[attr-defined]


class TextModelForSequenceClassification(TextModel):
    """Logits as transformers has them: numbers as they are; of classes, those whose softmax are the
    probabilities, (batch, classes); of labels of which a text may have several, whose sigmoid are.
    """

    def forward(self, return_dict: bool | None = None, **inputs) -> SequenceClassifierOutput:  # type: ignore[override]
        outputs = super().forward(**inputs)
        logits: torch.Tensor = outputs["logits"]
        if self.config.problem_type == "single_label_classification":
            shares = scores(self.config, logits)
            logits = shares.clamp_min(torch.finfo(shares.dtype).tiny).log()
        return SequenceClassifierOutput(
            logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class TextModelForQuestionAnswering(TextModel):
    """The logits of each token to be an answer's first and last, each (batch, tokens)."""

    def forward(self, return_dict: bool | None = None, **inputs) -> QuestionAnsweringModelOutput:  # type: ignore[override]
        outputs = super().forward(**inputs)
        start, end = outputs["logits"].unbind(dim=-1)
        return QuestionAnsweringModelOutput(
            start_logits=start,
            end_logits=end,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
