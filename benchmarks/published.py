"""The published notebook's rows and model, rewritten with their inefficiencies."""

import gc

import numpy as np
import torch
from torch import nn
from transformers import AutoModel


class PaddedRows(torch.utils.data.Dataset):
    """Texts, tokenised on access and padded to ``length`` tokens, and their targets."""

    def __init__(self, texts: list[str], targets: np.ndarray, tokenizer, length: int):
        self.texts, self.targets, self.tokenizer, self.length = texts, targets, tokenizer, length

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, i):
        text = self.texts[i].replace("\n", "")
        inputs = self.tokenizer(text, max_length=self.length, padding="max_length", truncation=True)
        return {name: torch.tensor(value) for name, value in inputs.items()}, torch.tensor(self.targets[i])


class PublishedModel(nn.Module):
    """The published model: first tokens of all layers, softmax-weighted, and a head with five dropouts."""

    def __init__(self, source: str):
        super().__init__()
        self.encoder = AutoModel.from_pretrained(source, output_hidden_states=True, dtype=torch.float32)
        layers, width = self.encoder.config.num_hidden_layers + 1, self.encoder.config.hidden_size
        self.weights = nn.Parameter(torch.tensor([-3.0] * (layers - 1) + [0.0]).view(-1, 1, 1))
        self.dropout, self.norm, self.head = nn.Dropout(0.2), nn.LayerNorm(width), nn.Linear(width, 1)
        self.dropouts = nn.ModuleList(nn.Dropout(0.5) for _ in range(5))

    def forward(self, **inputs) -> torch.Tensor:
        """Scores of tokenised texts, (batch, 1)."""
        states = torch.stack([self.dropout(state[:, 0]) for state in self.encoder(**inputs).hidden_states])
        pooled = self.norm((torch.softmax(self.weights, 0) * states).sum(0))
        gc.collect()
        return torch.stack([self.head(dropout(pooled)) for dropout in self.dropouts]).mean(0)
