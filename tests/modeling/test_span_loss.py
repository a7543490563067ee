"""The loss of spans: against torch, and over any split of a batch."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.modeling.span_loss import SpanLoss


def batch(seed, n=6, tokens=9):
    """Logits, some masked, and targets that never are."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(n, tokens, 2, dtype=torch.float64, generator=generator)
    targets = torch.randint(tokens, (n, 2), generator=generator)
    masked = torch.rand(n, tokens, generator=generator) < 0.4
    masked[torch.arange(n)[:, None], targets] = False
    return outputs.masked_fill(masked.unsqueeze(-1), -torch.inf).requires_grad_(), targets.float()


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(1, 5), max_size=4), seed=st.integers(0, 99))
def test_any_split_of_a_batch_gives_the_whole_batchs_gradient(cuts, seed):
    outputs, targets = batch(seed)
    loss = SpanLoss()
    (expected,) = torch.autograd.grad(loss(outputs, targets), outputs)
    parts = [slice(start, end) for start, end in pairwise(sorted({0, 6, *cuts}))]
    counts = sum(loss.counts(targets[part]) for part in parts)
    gradient = torch.zeros_like(outputs)
    for part in parts:
        share = (loss.statistics(outputs[part], targets[part]) / counts).sum()
        gradient += torch.autograd.grad(share, outputs)[0]
    torch.testing.assert_close(gradient, expected)
    assert gradient.isfinite().all()
    assert not gradient[outputs.isinf()].any(), "a masked token is pushed"


def test_it_is_the_mean_of_the_cross_entropies_of_start_and_end():
    outputs, targets = batch(0)
    start, end = (F.cross_entropy(outputs[..., i], targets[:, i].long()) for i in (0, 1))
    torch.testing.assert_close(SpanLoss()(outputs, targets), (start + end) / 2)
