"""The optimiser against the one of torch."""

import math

import pytest
import torch

from roireg.fit.adam import Adam


def bowl(p):
    return ((p - torch.tensor([1.0, -2.0, 0.5])) ** 2 * torch.tensor([1.0, 10.0, 0.01])).sum()


@pytest.mark.parametrize("last", [1.0, 0.1])
def test_steps_equal_those_of_torch(last):
    ours = torch.zeros(3, requires_grad=True)
    theirs = torch.zeros(3, requires_grad=True)
    optimiser = Adam([ours], rate=0.1, steps=20, last=last, betas=(0.9, 0.99), eps=1e-3)
    reference = torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99), eps=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(reference, 20, eta_min=0.1 * last)
    for _ in range(20):
        optimiser.step(bowl(ours))
        reference.zero_grad()
        bowl(theirs).backward()
        reference.step()
        schedule.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_first_step_has_the_given_length_whatever_the_gradient():
    p = torch.zeros(3, requires_grad=True)
    Adam([p], rate=0.25, steps=1).step(bowl(p) * 1e3)
    torch.testing.assert_close(p.detach(), torch.tensor([0.25, -0.25, 0.25]))


def test_the_rate_falls_along_a_half_cosine():
    p = torch.zeros(1, requires_grad=True)
    optimiser = Adam([p], rate=1.0, steps=4, last=0.2, betas=(0.0, 0.0))
    lengths = []
    for _ in range(4):
        before = float(p.detach())
        optimiser.step(p.sum())
        lengths.append(before - float(p.detach()))
    assert lengths == pytest.approx([0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)], rel=1e-5)
