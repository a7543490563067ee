import pytest
import torch

from utils.modeling.pooling import POOLINGS
from utils.modeling.token_states import text_vectors

WIDTH, LAYERS = 8, 4


def states(batch=2, tokens=6):
    torch.manual_seed(0)
    return tuple(torch.randn(batch, tokens, WIDTH) for _ in range(LAYERS))


@pytest.fixture(params=["right", "left"])
def mask(request):
    """Of a long and a short text, padded on either side."""
    short = [1, 1, 1, 1, 0, 0]
    return torch.tensor([[1, 1, 1, 1, 1, 1], short if request.param == "right" else short[::-1]])


@pytest.mark.parametrize("name", [name for name, pooling in POOLINGS.items() if pooling.is_linear])
def test_the_weights_are_the_shares_that_make_up_the_pooled_vector(name, mask):
    """Attention rollout and the plot of layers read ``weights``, which must agree with ``forward``."""
    torch.manual_seed(1)
    pooling = POOLINGS[name](WIDTH, LAYERS).eval()
    pooling.initialize()
    layers = states()
    weights = pooling.weights(layers, mask)
    assert weights.shape == (2, LAYERS, 6)
    torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.ones(2))
    assert not weights[1, :, mask[1] == 0].any(), "padding has a share"
    pooled = torch.einsum("blt,lbtw->bw", weights, torch.stack(layers))
    torch.testing.assert_close(text_vectors(pooling(layers, mask), mask), pooled)


@pytest.mark.parametrize("name", [name for name, pooling in POOLINGS.items() if pooling.is_linear])
def test_dropout_is_on_the_pooled_state(name, mask):
    torch.manual_seed(1)
    pooling = POOLINGS[name](WIDTH, LAYERS, dropout=1.0).train()
    pooling.initialize()
    assert not pooling(states(), mask).any()


@pytest.mark.parametrize(("name", "positions"), [("cls", [0, 2]), ("last", [5, 5])])
def test_one_token_is_found_by_the_mask(name, positions):
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    pooled = POOLINGS[name](WIDTH, LAYERS).eval()(states(), mask)
    assert torch.equal(pooled, states()[-1][[0, 1], positions])


def test_tokens_are_kept_apart_and_layers_pooled(mask):
    pooling = POOLINGS["tokens"](WIDTH, LAYERS).eval()
    pooling.initialize()
    layers = states()
    shares = pooling.layer_weights.softmax(dim=0)
    expected = sum(share * state for share, state in zip(shares, layers, strict=True))
    torch.testing.assert_close(pooling(layers, mask), expected)
    torch.testing.assert_close(text_vectors(expected, mask)[1], expected[1, mask[1] > 0].mean(dim=0))
