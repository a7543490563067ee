"""Scores of texts by a model: in training, on a landscape, for a submission."""

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn
from transformers import PreTrainedTokenizerBase

from utils import data, runtime
from utils.config import Config


@torch.no_grad()  # not inference_mode: Apex keeps casts of weights that training may meet again
def predict_batches(
    model: nn.Module,
    texts: data.Texts,
    batches: list[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    num_workers: int = 0,
) -> list[tuple[list[int], np.ndarray]]:
    """The rows of each batch and their scores, (rows, targets)."""
    model.eval()
    loader = data.make_loader(texts, batches, tokenizer, num_workers)
    parts = [model(**send_to_device(inputs, device, non_blocking=True))["logits"] for inputs, _ in loader]
    return [(rows, part.cpu().double().numpy()) for rows, part in zip(batches, parts, strict=True)]


def predict_texts(
    model: nn.Module, texts: data.Texts, tokenizer: PreTrainedTokenizerBase, config: Config
) -> np.ndarray:
    """Scores of all texts, (rows, targets), in the order of the rows, in float32 on the device there is."""
    batches = data.evaluation_batches(texts.lengths, config.eval_batch_size)
    scores = np.empty((len(texts.ids), len(config.target_columns)))
    for rows, values in predict_batches(model.to(runtime.device()), texts, batches, tokenizer, runtime.device()):
        scores[rows] = values
    return scores
