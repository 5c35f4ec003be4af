"""The network of SAM-Med3D (Wang et al. 2023, arXiv 2310.15161): Segment Anything with every part made 3D.

Modules are named as in the published checkpoint, so that it loads as it is. Axes a, b, c are the three axes of the
volume in the network's own order; what the training left as it was by accident (see `PromptEncoder.dense`) is kept,
because the weights have learnt it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roireg.models.renaming import count

__all__ = ["SamMed3DConfig", "SamMed3DNetwork", "sizes_of"]


@dataclass(frozen=True)
class SamMed3DConfig:
    """Sizes of the network; the defaults are the published ones.

    Attributes
    ----------
    side : of the input cube in voxels. patch : side of a token in voxels.
    width, heads : channels and attention heads of the encoder. windows : attention window of every block, in tokens.
    embedding : channels of the embedding and the decoder, a multiple of 48.
    mask_channels : hidden channels for masks given as prompts. masks : mask tokens.
    decoder_depth, decoder_heads, decoder_hidden, quality_hidden : sizes of the decoder.
    """

    side: int = 128
    patch: int = 16
    width: int = 768
    heads: int = 12
    windows: tuple[int, ...] = (14, 14, 8) * 4
    embedding: int = 384
    mask_channels: int = 16
    masks: int = 4
    mlp_ratio: int = 4
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_hidden: int = 2048
    quality_hidden: int = 256

    @property
    def tokens(self) -> int:
        """Tokens along one axis."""
        return self.side // self.patch


def sizes_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Read `SamMed3DConfig` off the shapes of a checkpoint; its heads are as published."""
    side, width = shapes["image_encoder.pos_embed"][-2:]
    patch = shapes["image_encoder.patch_embed.proj.weight"][-1]
    tables: list[tuple[int, ...]] = []
    while f"image_encoder.blocks.{len(tables)}.attn.rel_pos_d" in shapes:
        tables.append(shapes[f"image_encoder.blocks.{len(tables)}.attn.rel_pos_d"])
    return {
        "side": side * patch,
        "patch": patch,
        "width": width,
        "heads": width // shapes["image_encoder.blocks.0.attn.rel_pos_d"][1],
        "windows": tuple((table[0] + 1) // 2 for table in tables),
        "embedding": shapes["image_encoder.neck.0.weight"][0],
        "mask_channels": shapes["prompt_encoder.mask_downscaling.3.weight"][0],
        "masks": shapes["mask_decoder.mask_tokens.weight"][0],
        "mlp_ratio": shapes["image_encoder.blocks.0.mlp.lin1.weight"][0] // width,
        "decoder_depth": count(shapes, "mask_decoder.transformer.layers.#."),
        "decoder_hidden": shapes["mask_decoder.transformer.layers.0.mlp.lin1.weight"][0],
        "quality_hidden": shapes["mask_decoder.iou_prediction_head.layers.0.weight"][0],
    }


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of (N, C, a, b, c)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, 1e-6).movedim(-1, 1)


class TwoLayers(nn.Module):
    """The perceptron inside a transformer block."""

    def __init__(self, width: int, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.lin1, self.lin2, self.activation = nn.Linear(width, hidden), nn.Linear(hidden, width), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.activation(self.lin1(x)))


class WindowAttention(nn.Module):
    """Self-attention inside cubic windows, with a learnt bias per relative position and axis (MViTv2, eq. 4)."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        length = 2 * window - 1
        self.rel_pos_d = nn.Parameter(torch.zeros(length, width // heads))
        self.rel_pos_h = nn.Parameter(torch.zeros(length, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(length, width // heads))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        starts = (range(0, n, self.window) for n in x.shape[1:4])
        for corner in itertools.product(*starts):
            place = (slice(None), *(slice(s, s + self.window) for s in corner))
            out[place] = self._attend(x[place])
        return self.proj(out)

    def _attend(self, block: Tensor) -> Tensor:
        size = block.shape[1:4]
        padded = F.pad(block, (0, 0, *(p for n in reversed(size) for p in (0, self.window - n))))
        q, k, v = self.qkv(padded).unflatten(-1, (3, self.heads, -1)).unbind(4)
        # The tokens that pad a window are attended to, as in training, but nobody needs their own answers.
        q = q[:, : size[0], : size[1], : size[2]]
        bias = self._bias(q)
        q, k, v = (t.flatten(1, 3).transpose(1, 2) for t in (q, k, v))
        answer = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return answer.transpose(1, 2).reshape(block.shape)

    def _bias(self, q: Tensor) -> Tensor:
        """(B, heads, queries, keys) what relative positions add, from (B, a, b, c, heads, channels) queries."""
        keys = torch.arange(self.window, device=q.device)
        parts = []
        for axis, table in enumerate((self.rel_pos_d, self.rel_pos_h, self.rel_pos_w)):
            queries = torch.arange(q.shape[1 + axis], device=q.device)
            near = table[queries[:, None] - keys[None] + self.window - 1]
            equation = ("nabchd,akd->nhabck", "nabchd,bkd->nhabck", "nabchd,ckd->nhabck")[axis]
            parts.append(torch.einsum(equation, q, near))
        total = parts[0][..., :, None, None] + parts[1][..., None, :, None] + parts[2][..., None, None, :]
        return total.flatten(5).flatten(2, 4)


class EncoderBlock(nn.Module):
    """One transformer block of the encoder."""

    def __init__(self, width: int, heads: int, window: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = WindowAttention(width, heads, window)
        self.mlp = TwoLayers(width, width * mlp_ratio, nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbedding(nn.Module):
    """Cubes of voxels to tokens, channels last."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(1, width, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).movedim(1, -1)


class ImageEncoder(nn.Module):
    """(N, 1, side, side, side) volume to (N, embedding, tokens, tokens, tokens) map, or the map after a block."""

    def __init__(self, config: SamMed3DConfig) -> None:
        super().__init__()
        width, out, n = config.width, config.embedding, config.tokens
        self.patch_embed = PatchEmbedding(config.patch, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, n, n, n, width))
        self.blocks = nn.ModuleList(EncoderBlock(width, config.heads, w, config.mlp_ratio) for w in config.windows)
        self.neck = nn.Sequential(
            nn.Conv3d(width, out, 1, bias=False), ChannelNorm(out), nn.Conv3d(out, out, 3, padding=1, bias=False),
            ChannelNorm(out),
        )  # fmt: skip

    def forward(self, x: Tensor, *, layer: int | None = None) -> Tensor:
        x = self.patch_embed(x) + self.pos_embed
        last = len(self.blocks) if layer is None else layer % len(self.blocks) + 1
        for block in self.blocks[:last]:
            x = block(x)
        x = x.movedim(-1, 1)
        return self.neck(x) if layer is None else x


class FourierPositions(nn.Module):
    """Random Fourier features of positions in 0..1: sine, cosine and, to fill three parts, sine again."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(3, features))

    def forward(self, positions: Tensor) -> Tensor:
        angle = 2 * math.pi * ((2 * positions - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angle.sin(), angle.cos(), angle.sin()], dim=-1)


class PromptEncoder(nn.Module):
    """Points to tokens, masks to a map that is added to the embedding."""

    def __init__(self, config: SamMed3DConfig) -> None:
        super().__init__()
        out, hidden = config.embedding, config.mask_channels
        self.side, self.tokens = config.side, config.tokens
        self.pe_layer = FourierPositions(out // 3)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, out) for _ in range(2))
        self.not_a_point_embed = nn.Embedding(1, out)
        self.mask_downscaling = nn.Sequential(
            nn.Conv3d(1, hidden // 4, 2, stride=2), ChannelNorm(hidden // 4), nn.GELU(),
            nn.Conv3d(hidden // 4, hidden, 2, stride=2), ChannelNorm(hidden), nn.GELU(), nn.Conv3d(hidden, out, 1),
        )  # fmt: skip
        # Published with the weights, used by none of the published protocols: they start from an empty mask.
        self.no_mask_embed = nn.Embedding(1, out)

    def points(self, points: Tensor, labels: Tensor) -> Tensor:
        """(P, N + 1, embedding) tokens of (P, N, 3) voxel coordinates and (P, N) labels, the last one padding."""
        token = self.pe_layer((points + 0.5) / self.side)
        outside, inside = (e.get_parameter("weight") for e in self.point_embeddings)
        kinds = torch.cat([self.not_a_point_embed.weight, outside, inside])
        token = torch.where(labels[..., None] < 0, 0.0, token) + kinds[labels.long() + 1]
        return torch.cat([token, self.not_a_point_embed.weight.expand(len(token), 1, -1)], dim=1)

    def dense(self) -> Tensor:
        """(1, embedding, a, b, c) positions of the map; the first two components are swapped, as in training."""
        n = self.tokens
        ends = (torch.arange(n, device=self.no_mask_embed.weight.device) + 0.5) / n
        a, b, c = torch.meshgrid(ends, ends, ends, indexing="ij")
        return self.pe_layer(torch.stack([b, a, c], dim=-1)).movedim(-1, 0)[None]


class CrossAttention(nn.Module):
    """Attention whose inner width may be smaller than the outer one."""

    def __init__(self, width: int, heads: int, reduction: int = 1) -> None:
        super().__init__()
        inner = width // reduction
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = (p(t) for p, t in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v)))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in parts)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TwoWayBlock(nn.Module):
    """Prompts attend to themselves, prompts to the image, image to prompts."""

    def __init__(self, config: SamMed3DConfig, *, first: bool) -> None:
        super().__init__()
        width, heads = config.embedding, config.decoder_heads
        self.first = first
        self.self_attn = CrossAttention(width, heads)
        self.cross_attn_token_to_image = CrossAttention(width, heads, 2)
        self.cross_attn_image_to_token = CrossAttention(width, heads, 2)
        self.mlp = TwoLayers(width, config.decoder_hidden, nn.ReLU())
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))

    def forward(
        self, tokens: Tensor, image: Tensor, token_place: Tensor, image_place: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.first:
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            placed = tokens + token_place
            tokens = self.norm1(tokens + self.self_attn(placed, placed, tokens))
        placed_image = image + image_place
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_place, placed_image, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(placed_image, tokens + token_place, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Two-way blocks and a last look of the prompts at the image."""

    def __init__(self, config: SamMed3DConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(config, first=i == 0) for i in range(config.decoder_depth))
        self.final_attn_token_to_image = CrossAttention(config.embedding, config.decoder_heads, 2)
        self.norm_final_attn = nn.LayerNorm(config.embedding)

    def forward(self, image: Tensor, image_place: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        tokens = prompts
        for layer in self.layers:
            tokens, image = layer(tokens, image, prompts, image_place)
        update = self.final_attn_token_to_image(tokens + prompts, image + image_place, image)
        return self.norm_final_attn(tokens + update), image


class Perceptron(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        sizes = ((width, hidden), (hidden, hidden), (hidden, out))
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in sizes)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class MaskDecoder(nn.Module):
    """Embedding and prompts to mask logits at a quarter of the resolution."""

    def __init__(self, config: SamMed3DConfig) -> None:
        super().__init__()
        width = config.embedding
        self.transformer = TwoWayTransformer(config)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(config.masks, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose3d(width, width // 4, 2, stride=2), ChannelNorm(width // 4), nn.GELU(),
            nn.ConvTranspose3d(width // 4, width // 8, 2, stride=2), nn.GELU(),
        )  # fmt: skip
        heads = (Perceptron(width, width, width // 8) for _ in range(config.masks))
        self.output_hypernetworks_mlps = nn.ModuleList(heads)
        self.iou_prediction_head = Perceptron(width, config.quality_hidden, config.masks)

    def forward(self, image: Tensor, positions: Tensor, prompts: Tensor) -> Tensor:
        """(P, masks, 4a, 4b, 4c) logits from (P, C, a, b, c) embeddings and (P, N, C) prompts."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(len(prompts), -1, -1)
        places = positions.flatten(2).transpose(1, 2).expand(len(prompts), -1, -1)
        tokens, update = self.transformer(image.flatten(2).transpose(1, 2), places, torch.cat([own, prompts], dim=1))
        fine = self.output_upscaling(update.transpose(1, 2).reshape(image.shape))
        weights = [mlp(tokens[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)]
        return torch.einsum("pkc,pcxyz->pkxyz", torch.stack(weights, dim=1), fine)


class SamMed3DNetwork(nn.Module):
    """Encoder, prompt encoder and mask decoder under their published names."""

    def __init__(self, config: SamMed3DConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(config)
        self.prompt_encoder = PromptEncoder(config)
        self.mask_decoder = MaskDecoder(config)

    def decode(self, image: Tensor, points: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """(P, masks, n, n, n) logits for (P, N, 3) points, (P, N) labels and (P, 1, n, n, n) earlier logits."""
        prompts = self.prompt_encoder.points(points, labels)
        placed = image + self.prompt_encoder.mask_downscaling(mask)
        return self.mask_decoder(placed, self.prompt_encoder.dense(), prompts)
