"""TinyViT, the image encoder of MobileSAM: convolutions at high resolution, windowed attention below.

Wu et al., "TinyViT", ECCV 2022; with the neck of Segment Anything as in Zhang et al., "Faster Segment Anything",
arXiv 2306.14289. Modules are named as in the published checkpoint. Maps are (B, C, h, w) throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roireg.models.checkpoint import Shapes
from roireg.models.renaming import count

__all__ = ["EncoderOutput", "TinyVit", "TinyVitSizes"]

MERGING_STRIDES = (2, 2, 1)
"""Of the convolutions between the four stages: 1/4, 1/8, 1/16 and again 1/16 of the input."""


@dataclass(frozen=True)
class TinyVitSizes:
    """Sizes of the stages, the first of which is convolutional.

    Attributes
    ----------
    widths : channels per stage.
    depths : blocks per stage.
    windows, heads : of the attention, for the second stage and on.
    expansion : channels inside the perceptrons and inverted bottlenecks, as a multiple of the width.
    channels : of the map that the neck returns.
    """

    widths: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    windows: tuple[int, ...] = (7, 14, 7)
    heads: tuple[int, ...] = (4, 5, 10)
    expansion: int = 4
    channels: int = 256

    @classmethod
    def of(cls, shapes: Shapes, prefix: str = "vision_encoder.") -> TinyVitSizes:
        """Read the sizes off the tensors."""
        stages = range(4)
        depths = [count(shapes, f"{prefix}layers.{i}.blocks.#.") for i in stages]
        bias = [shapes[f"{prefix}layers.{i}.blocks.0.attn.attention_biases"] for i in stages[1:]]
        widths = [shapes[f"{prefix}patch_embed.seq.2.c.weight"][0]]
        widths += [shapes[f"{prefix}layers.{i}.downsample.conv1.c.weight"][0] for i in stages[:-1]]
        return cls(
            widths=tuple(widths),
            depths=tuple(depths),
            windows=tuple(round(offsets**0.5) for _, offsets in bias),
            heads=tuple(heads for heads, _ in bias),
            expansion=shapes[f"{prefix}layers.0.blocks.0.conv1.c.weight"][0] // widths[0],
            channels=shapes[f"{prefix}neck.conv1.weight"][0],
        )


@dataclass(frozen=True)
class EncoderOutput:
    """What an encoder returns, under the name that transformers uses."""

    last_hidden_state: Tensor


class _ConvNorm(nn.Sequential):
    """A convolution without bias and its batch normalisation."""

    def __init__(self, inside: int, out: int, size: int = 1, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.add_module("c", nn.Conv2d(inside, out, size, stride, size // 2, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(out))


class _PatchEmbedding(nn.Module):
    """Two convolutions of stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            _ConvNorm(3, width // 2, 3, stride=2), nn.GELU(), _ConvNorm(width // 2, width, 3, stride=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class _InvertedBottleneck(nn.Module):
    """Widen, convolve every channel by itself, narrow; added to the input (MBConv)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(width, hidden)
        self.conv2 = _ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = _ConvNorm(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(x + self.conv3(inner))


class _Merging(nn.Module):
    """Change width and, by stride, resolution between stages."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(width, out)
        self.conv2 = _ConvNorm(out, out, 3, stride=stride, groups=out)
        self.conv3 = _ConvNorm(out, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class _WindowAttention(nn.Module):
    """Attention among the tokens of one window, with a learnt bias per head and absolute offset of two tokens."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))

    def bias(self) -> Tensor:
        """Return the (heads, tokens, tokens) bias. Offsets are numbered row by row, |dy| window + |dx|."""
        place = torch.arange(self.window, device=self.attention_biases.device)
        apart = (place[:, None] - place[None]).abs()
        index = apart[:, None, :, None] * self.window + apart[None, :, None, :]
        return self.attention_biases[:, index.reshape(self.window**2, self.window**2)]

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        # Query, key and value of one head lie side by side.
        q, k, v = self.qkv(self.norm(x)).view(batch, tokens, self.heads, 3, -1).permute(3, 0, 2, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias().to(q.dtype))
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class _Perceptron(nn.Module):
    """Normalise, widen, narrow; on (..., C)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class _Block(nn.Module):
    """Windowed attention, a convolution of every channel by itself, a perceptron."""

    def __init__(self, width: int, heads: int, window: int, hidden: int) -> None:
        super().__init__()
        self.attn = _WindowAttention(width, heads, window)
        self.local_conv = _ConvNorm(width, width, 3, groups=width)
        self.mlp = _Perceptron(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = self.local_conv(x + self._attend(x))
        return x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _attend(self, x: Tensor) -> Tensor:
        batch, width, height, breadth = x.shape
        w = self.attn.window
        x = F.pad(x, (0, -breadth % w, 0, -height % w))
        rows, columns = x.shape[2] // w, x.shape[3] // w
        windows = x.view(batch, width, rows, w, columns, w).permute(0, 2, 4, 3, 5, 1).reshape(-1, w * w, width)
        mixed = self.attn(windows).view(batch, rows, columns, w, w, width).permute(0, 5, 1, 3, 2, 4)
        return mixed.reshape(batch, width, rows * w, columns * w)[:, :, :height, :breadth]


class _Stage(nn.Module):
    """Blocks, then the way to the next stage."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class _Neck(nn.Module):
    """The neck of Segment Anything, on (B, C, h, w)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, channels, 1, bias=False)
        self.layer_norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.layer_norm2 = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer_norm1(self.conv1(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.layer_norm2(self.conv2(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TinyVit(nn.Module):
    """Image (B, 3, y, x) to map (B, channels, y / 16, x / 16)."""

    def __init__(self, sizes: TinyVitSizes) -> None:
        super().__init__()
        self.patch_embed = _PatchEmbedding(sizes.widths[0])
        stages = []
        for i, (width, depth) in enumerate(zip(sizes.widths, sizes.depths, strict=True)):
            hidden = sizes.expansion * width
            blocks: list[nn.Module] = (
                [_InvertedBottleneck(width, hidden) for _ in range(depth)]
                if i == 0
                else [_Block(width, sizes.heads[i - 1], sizes.windows[i - 1], hidden) for _ in range(depth)]
            )
            last = i == len(sizes.widths) - 1
            stages.append(_Stage(blocks, None if last else _Merging(width, sizes.widths[i + 1], MERGING_STRIDES[i])))
        self.layers = nn.ModuleList(stages)
        self.neck = _Neck(sizes.widths[-1], sizes.channels)

    def forward(self, pixels: Tensor) -> EncoderOutput:
        return EncoderOutput(self.neck(self.after(pixels, len(self.layers) - 1)))

    def after(self, pixels: Tensor, layer: int) -> Tensor:
        """Return the map after a stage."""
        x: Tensor = self.patch_embed(pixels)
        for stage in self.layers[: layer + 1]:
            x = stage(x)
        return x
