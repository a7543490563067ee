"""Weights held in few bits while they are trained, to see what an average in full precision gives back.

Stochastic weight averaging in low precision (SWALP, Yang et al. 2019, arXiv:1904.11943): after each optimizer
step the weights are rounded to a narrow format; their average is kept in float32, where the rounding noise
averages out.
"""

import torch


def block_floating_point(weight: torch.Tensor, generator: torch.Generator, bits: int = 8) -> torch.Tensor:
    """``weight`` in numbers of ``bits`` bits, sign included, that share an exponent per row or vector.

    Rounded stochastically, up with a probability equal to the remainder, so that the expectation is the
    weight itself and small updates are not always lost (section 3.1 of the paper; "small-block" is one
    exponent a row).
    """
    rows = weight.reshape(len(weight), -1) if weight.dim() > 1 else weight.reshape(1, -1)
    exponents = torch.frexp(
        rows.abs().amax(dim=1, keepdim=True)
    ).exponent  # the largest lies below 2 ** exponent
    smallest = -126  # a smaller power of two is subnormal in float32, and may be flushed to 0, to divide by
    step = torch.ldexp(torch.ones_like(rows[:, :1]), (exponents - (bits - 1)).clamp(min=smallest))
    noise = torch.rand(rows.shape, generator=generator, device=rows.device)
    integers = torch.floor(rows / step + noise).clamp_(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return (integers * step).reshape(weight.shape)


def bfloat16(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """``weight`` rounded to the nearest bfloat16, as a model cast to it would hold it.

    An update under half a unit in the last of its 8 significant bits is lost.
    """
    return weight.to(torch.bfloat16).to(weight.dtype)


FORMATS = {"bf16": bfloat16, "bfp8": block_floating_point}


@torch.no_grad()
def round_weights(weights: list[torch.Tensor], name: str, seed: int) -> None:
    """Round ``weights`` in place to a format, the same way for the same seed in every process."""
    generator = torch.Generator(weights[0].device).manual_seed(seed)
    for weight in weights:
        weight.copy_(FORMATS[name](weight, generator))
