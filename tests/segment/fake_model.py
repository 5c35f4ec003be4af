"""A network whose answers are known: a prompt gets the connected piece of one colour that it points at."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.models.base import Embedding, MaskLogits, ModelCard

STRIDE = 4


def card(ndim: int = 2, prompts=("point", "box", "mask")) -> ModelCard:
    return ModelCard("fake", "fake", ndim=ndim, input_size=64, prompts=frozenset(prompts))


class FakeModel:
    """Logits are +-10 on the raster padded to a square; features are colours averaged over 4 x 4 pixels.

    A point gets the piece of its colour (quality 0.95), all pieces of this colour (0.9) and nothing (0.99). A box
    gets the piece that fills it best. `quality` scales all qualities.
    """

    def __init__(self, *, ndim: int = 2, prompts=("point", "box", "mask"), key: str = "fake", quality: float = 1.0):
        self.card = card(ndim, prompts)
        self.key = key
        self.encoded = 0
        self.decoded: list[int] = []
        self.quality = quality
        self.masks_seen: list[torch.Tensor] = []

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def encode(self, raster: torch.Tensor) -> Embedding:
        self.encoded += 1
        colour = raster.float().mean(0).round()
        shape = tuple(colour.shape)
        side = -(-max(shape) // STRIDE) * STRIDE
        padding = [p for n in reversed(shape) for p in (0, side - n)]
        pool = F.avg_pool2d if len(shape) == 2 else F.avg_pool3d
        cells = pool(F.pad(colour, padding)[None, None], STRIDE)
        scale = np.full(len(shape), 1 / STRIDE)
        covered = tuple(-(-n // STRIDE) for n in shape)
        return Embedding({"image": cells, "colour": colour[None]}, shape, scale, 0.5 * scale - 0.5, covered)

    def encode_dense(self, raster: torch.Tensor, *, layer: int | None = None) -> Embedding:
        embedding = self.encode(raster)
        factor = 1.0 if layer is None else float(layer)
        return Embedding(
            {"image": embedding.tensors["image"] * factor},
            embedding.shape,
            embedding.scale,
            embedding.offset,
            embedding.covered,
        )

    def decode(self, embedding, *, points=None, labels=None, boxes=None, masks=None, multimask=True) -> MaskLogits:
        colour = embedding.tensors["colour"][0].numpy()
        count = len(points if points is not None else boxes)
        self.decoded.append(count)
        if masks is not None:
            self.masks_seen.append(masks.clone())
        found, quality = [], []
        for p in range(count):
            piece, alike = self._piece(
                colour,
                None if points is None else points[p].numpy(),
                None if labels is None else labels[p].numpy(),
                None if boxes is None else boxes[p].numpy(),
            )
            found.append(np.stack([piece, alike, np.zeros_like(piece)] if multimask else [piece]))
            quality.append([0.95, 0.9, 0.99] if multimask else [0.95])
        logits = torch.from_numpy(np.stack(found)).float() * 20 - 10
        side = embedding.tensors["image"].shape[-1] * STRIDE
        padding = [p for n in reversed(embedding.shape) for p in (0, side - n)]
        logits = F.pad(logits, padding, value=-10.0)
        return MaskLogits(logits, torch.tensor(quality) * self.quality)

    def upscale(self, logits: torch.Tensor, embedding: Embedding) -> torch.Tensor:
        return logits[(..., *(slice(0, n) for n in embedding.shape))]

    @staticmethod
    def _piece(colour, points, labels, box):
        if box is not None:
            low = np.clip(np.ceil(box[0]), 0, np.array(colour.shape) - 1).astype(int)
            high = np.clip(np.floor(box[1]), 0, np.array(colour.shape) - 1).astype(int)
            filled = np.zeros(colour.shape, bool)
            filled[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = True
            best, agreement = np.zeros_like(filled), 0.0
            for value in np.unique(colour):
                pieces, count = ndimage.label(colour == value)
                for k in range(1, count + 1):
                    iou = ((pieces == k) & filled).sum() / ((pieces == k) | filled).sum()
                    if iou > agreement:
                        best, agreement = pieces == k, iou
            return best, best
        piece, alike = np.zeros(colour.shape, bool), np.zeros(colour.shape, bool)
        for point, label in zip(points, labels, strict=True):
            at = tuple(np.clip(np.round(point), 0, np.array(colour.shape) - 1).astype(int))
            same = colour == colour[at]
            here = ndimage.label(same)[0]
            if label == 1:
                piece |= here == here[at]
                alike |= same
            elif label == 0:
                piece &= here != here[at]
                alike &= ~same
        return piece, alike


def block_image(shape, boxes, grid: Grid | None = None) -> tuple[Image, list[np.ndarray]]:
    """An 8-bit image of blocks, each (slices, value), and their masks as drawn."""
    values = np.zeros(shape, np.float32)
    for where, value in boxes:
        values[where] = value
    masks = []
    for where, value in boxes:
        drawn = np.zeros(shape, bool)
        drawn[where] = True
        masks.append(drawn & (values == value))
    return Image(torch.from_numpy(values)[None], grid or Grid.pixels(shape)), masks
