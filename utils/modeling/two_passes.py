"""Local context focus with local states of the sentence alone, which the encoder reads a second time.

The published form of Zeng et al. 2019 (doi 10.3390/app9163389), with one encoder for both readings.
"""

import torch

from .local_context import LocalContext
from .pooling import States


class TwoPasses(LocalContext):
    """The pair's states beside those that tokens near the aspect have without the second text."""

    extras = ("distance", "alone")
    second_pass = "alone"

    def _join(self, state: torch.Tensor, distances: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.linear(torch.cat([state, *self._local_states(distances["alone"], distances)], dim=-1))

    def weights(self, states: States, mask: torch.Tensor, **distances: torch.Tensor) -> torch.Tensor:
        """As in one pass: of the second reading there are no states here."""
        return super().weights(states, mask, **distances | {"alone": states[-1]})


class ContextMaskAlone(TwoPasses):
    """Context dynamic mask (CDM) on the states of the sentence read alone."""

    name = "lcf_cdm_two_passes"
    weighings = ("mask",)


class ContextWeightsAlone(TwoPasses):
    """Context dynamic weights (CDW) on the states of the sentence read alone."""

    name = "lcf_cdw_two_passes"
    weighings = ("weigh",)


class ContextFusionAlone(TwoPasses):
    """CDM and CDW on the states of the sentence read alone."""

    name = "lcf_fusion_two_passes"
    weighings = ("mask", "weigh")
