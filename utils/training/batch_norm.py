"""Running statistics of batch norm, which averaging the weights leaves behind."""

from collections.abc import Iterable

from torch import nn
from torch.optim.swa_utils import update_bn

from utils.data.tokens import Batch


class _FedByBatch(nn.Module):
    """A model as a module of one argument, which is all that torch's ``update_bn`` can call."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, inputs: dict):
        return self.model(**inputs)


def refresh_batch_norm(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Recompute them; free for models without batch norm, such as BERT and RoBERTa."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        # In a list: of a tuple, such as a Batch, update_bn takes the first element.
        inputs = ([{**batch.inputs, "extras": batch.extras}] for batch in batches)
        update_bn(inputs, _FedByBatch(model).train(model.training))
