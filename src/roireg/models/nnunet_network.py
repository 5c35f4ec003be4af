"""The U-Nets of nnU-Net v2 (Isensee et al., Nature Methods 2021) in plain torch, plain and with residual encoder.

Written from the layout of their tensors: names are those of the package dynamic_network_architectures, without the
second names under which it stores some of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["NnUNet", "Triple", "UNetPlan"]

LEAK = 0.01

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class UNetPlan:
    """Sizes of a U-Net for volumes, level by level from the finest.

    Attributes
    ----------
    channels : of the image. classes : of the answer, background included.
    features, kernels, strides : of every level. encoder, decoder : blocks per level; the decoder has one level less.
    residual : whether the encoder has residual blocks. bias : of convolutions. eps : of instance normalisation.
    """

    channels: int
    classes: int
    features: tuple[int, ...]
    kernels: tuple[Triple, ...]
    strides: tuple[Triple, ...]
    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    residual: bool = False
    bias: bool = True
    eps: float = 1e-5


class Conv(nn.Module):
    """Convolution and instance normalisation; `active` with a leaky ReLU behind them."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Triple, stride: Triple, plan: UNetPlan, *,
        active: bool = True, bias: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        bias = plan.bias if bias is None else bias
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=bias)
        self.norm = nn.InstanceNorm3d(outputs, eps=plan.eps, affine=True)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return F.leaky_relu(x, LEAK) if self.active else x


class Convs(nn.Module):
    """Several convolutions, the first with a stride."""

    def __init__(self, count: int, inputs: int, outputs: int, kernel: Triple, stride: Triple, plan: UNetPlan) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            Conv(inputs, outputs, kernel, stride, plan),
            *(Conv(outputs, outputs, kernel, (1, 1, 1), plan) for _ in range(count - 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.convs(x))


class Residual(nn.Module):
    """Two convolutions beside a short way (He et al. 2016, their block D)."""

    def __init__(self, inputs: int, outputs: int, kernel: Triple, stride: Triple, plan: UNetPlan) -> None:
        super().__init__()
        self.conv1 = Conv(inputs, outputs, kernel, stride, plan)
        self.conv2 = Conv(outputs, outputs, kernel, (1, 1, 1), plan, active=False)
        parts: list[nn.Module] = []
        if any(s != 1 for s in stride):
            parts.append(nn.AvgPool3d(stride, stride))
        if inputs != outputs:
            parts.append(Conv(inputs, outputs, (1, 1, 1), (1, 1, 1), plan, active=False, bias=False))
        self.skip = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.conv2(self.conv1(x)) + self.skip(x), LEAK)


class Residuals(nn.Module):
    """Several residual blocks, the first with a stride."""

    def __init__(self, count: int, inputs: int, outputs: int, kernel: Triple, stride: Triple, plan: UNetPlan) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            Residual(inputs, outputs, kernel, stride, plan),
            *(Residual(outputs, outputs, kernel, (1, 1, 1), plan) for _ in range(count - 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.blocks(x))


class Encoder(nn.Module):
    """The way down."""

    def __init__(self, plan: UNetPlan) -> None:
        super().__init__()
        inputs = plan.channels
        if plan.residual:
            self.stem = Convs(1, inputs, plan.features[0], plan.kernels[0], (1, 1, 1), plan)
            inputs = plan.features[0]
        stages: list[nn.Module] = []
        for count, outputs, kernel, stride in zip(
            plan.encoder, plan.features, plan.kernels, plan.strides, strict=True
        ):
            if plan.residual:
                stages.append(Residuals(count, inputs, outputs, kernel, stride, plan))
            else:
                stages.append(nn.Sequential(Convs(count, inputs, outputs, kernel, stride, plan)))
            inputs = outputs
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return what every level sees, the finest first."""
        maps: list[Tensor] = []
        x = self.stem(x) if hasattr(self, "stem") else x
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Decoder(nn.Module):
    """The way up; every level could answer, the finest one does."""

    def __init__(self, plan: UNetPlan) -> None:
        super().__init__()
        self.stages, self.transpconvs, self.seg_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for k, count in enumerate(plan.decoder, start=1):
            below, here, stride = plan.features[-k], plan.features[-k - 1], plan.strides[-k]
            self.transpconvs.append(nn.ConvTranspose3d(below, here, stride, stride, bias=plan.bias))
            self.stages.append(Convs(count, 2 * here, here, plan.kernels[-k - 1], (1, 1, 1), plan))
            self.seg_layers.append(nn.Conv3d(here, plan.classes, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = maps[-1]
        for k, (up, stage) in enumerate(zip(self.transpconvs, self.stages, strict=True)):
            x = stage(torch.cat((up(x), maps[-k - 2]), 1))
        return torch.as_tensor(self.seg_layers[-1](x))


class NnUNet(nn.Module):
    """A U-Net with skip connections.

    Attributes
    ----------
    names, plan : see `WindowedNetwork`; set by whoever reads the folder.
    """

    names: tuple[str, ...]
    plan: Any

    def __init__(self, plan: UNetPlan) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(plan), Decoder(plan)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, classes, *shape) logits of a (N, channels, *shape) window."""
        return torch.as_tensor(self.decoder(self.encoder(x)))
