"""Adam with a cosine schedule; importing torch's own takes over a second, as long as a small registration."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Adam"]


class Adam:
    """Gradient descent with bias-corrected first and second moments (Kingma and Ba, ICLR 2015, algorithm 1).

    Parameters
    ----------
    parameters : leaf tensors that require gradients; changed in place.
    rate : length of the first step.
    steps : after so many steps the length has fallen along a half cosine to `last` times `rate`.
    last : 1 keeps the length.
    betas : how much of the moments is kept at every step.
    eps : added to the root of the second moment; gradients far below it move nothing.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        *,
        rate: float,
        steps: int,
        last: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.parameters, self.rate, self.steps, self.last = list(parameters), rate, steps, last
        self.betas, self.eps = betas, eps
        self.done = 0
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]

    def step(self, loss: Tensor) -> None:
        """Go one step down the gradient of a loss."""
        gradients = torch.autograd.grad(loss, self.parameters)
        fall = 0.5 * (1 + math.cos(math.pi * self.done / self.steps))
        rate = self.rate * (self.last + (1 - self.last) * fall)
        self.done += 1
        a, b = self.betas
        scale, root = 1 - a**self.done, math.sqrt(1 - b**self.done)
        with torch.no_grad():
            for p, g, m, v in zip(self.parameters, gradients, self.first, self.second, strict=True):
                m.lerp_(g, 1 - a)
                v.mul_(b).addcmul_(g, g, value=1 - b)
                p.addcdiv_(m, (v.sqrt() / root).add_(self.eps), value=-rate / scale)
