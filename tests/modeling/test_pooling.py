import pytest
import torch

from utils.modeling.pooling import POOLINGS

WIDTH, LAYERS = 8, 4


def states(batch=2, tokens=6):
    torch.manual_seed(0)
    return tuple(torch.randn(batch, tokens, WIDTH) for _ in range(LAYERS))


@pytest.fixture
def mask():
    return torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


@pytest.mark.parametrize("name", POOLINGS)
def test_the_weights_are_the_shares_that_make_up_the_pooled_vector(name, mask):
    """Attention rollout and the plot of layers read ``weights``, which must agree with ``forward``."""
    torch.manual_seed(1)
    pooling = POOLINGS[name](WIDTH, LAYERS).eval()
    pooling.initialize()
    layers = states()
    weights = pooling.weights(layers, mask)
    assert weights.shape == (2, LAYERS, 6)
    torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.ones(2))
    assert not weights[1, :, 4:].any(), "padding has a share"
    pooled = torch.einsum("blt,lbtw->bw", weights, torch.stack(layers))
    torch.testing.assert_close(pooling(layers, mask), pooled)


@pytest.mark.parametrize("name", POOLINGS)
def test_dropout_is_on_the_pooled_state(name, mask):
    torch.manual_seed(1)
    pooling = POOLINGS[name](WIDTH, LAYERS, dropout=1.0).train()
    pooling.initialize()
    assert not pooling(states(), mask).any()
