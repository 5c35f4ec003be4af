"""What all 2D promptable networks share: coordinates, batches of prompts, and the way back to the raster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from roireg.core.errors import InputError
from roireg.models.base import Embedding, LoadReport, MaskLogits, ModelCard
from roireg.models.network import Network
from roireg.models.preprocess import Frame, Preprocessing

__all__ = ["PromptableNetwork", "Prompts", "RasterNetwork"]


@dataclass(frozen=True)
class Prompts:
    """P prompts in input coordinates.

    Attributes
    ----------
    points : (P, N, 2) in the order (x, y), labels (P, N) int64; both None without points.
    boxes : (P, 4) as x0, y0, x1, y1, or None.
    masks : (P, 1, h, w) logits, or None.
    """

    points: Tensor | None
    labels: Tensor | None
    boxes: Tensor | None
    masks: Tensor | None

    def rows(self, index: Tensor, count: int) -> Prompts:
        """Return some of the prompts, with their first `count` points."""
        return Prompts(
            None if self.points is None or count == 0 else self.points[index, :count],
            None if self.labels is None or count == 0 else self.labels[index, :count],
            None if self.boxes is None else self.boxes[index],
            None if self.masks is None else self.masks[index],
        )


class RasterNetwork(Network):
    """A network for 2D images; see `Network`.

    Attributes
    ----------
    preprocessing : how it wants its images.
    """

    def __init__(self, card: ModelCard, network: Any, size: int, *, key: str, report: LoadReport | None) -> None:
        super().__init__(card, network, size, key=key, report=report)
        assert isinstance(card.preprocessing, Preprocessing)
        self.preprocessing = replace(card.preprocessing, size=size)

    def embedding(self, tensors: Mapping[str, Tensor], frame: Frame, stride: int) -> Embedding:
        """Return the embedding of a raster that lies in `frame`; `stride` input pixels are one cell of "image"."""
        scale, offset, covered = frame.cells(stride)
        return Embedding(dict(tensors), frame.shape, scale, offset, covered)


class PromptableNetwork(RasterNetwork, ABC):
    """A 2D network of the Segment Anything kind; see `Network` and `PromptableModel`."""

    stride = 16
    """Input pixels per cell of the "image" map."""

    def encode(self, raster: Tensor) -> Embedding:
        """Encode a (3, y, x) or (1, y, x) raster with values 0..255; see `PromptableModel.encode`."""
        pixels, frame = self.preprocessing(raster.to(self.device))
        with self.encoding():
            tensors = self._encode(pixels.to(self.dtype))
        return self.embedding(tensors, frame, self.stride)

    def encode_dense(self, raster: Tensor, *, layer: int | None = None) -> Embedding:
        """Encode for features alone: the final map, or that after a block of the encoder.

        Parameters
        ----------
        layer : 0 is the first block, -1 the last; None is the map that the decoder reads, at the cost of `encode`.
            An early block is cheaper, as the rest is not computed.

        Raises
        ------
        InputError
            When there is no such block.
        """
        block = self._block(layer, self.layers)
        if block is None:
            return self.encode(raster)
        pixels, frame = self.preprocessing(raster.to(self.device))
        with self.encoding():
            features = self._layer(pixels.to(self.dtype), block).float()
        return self.embedding({"image": features}, frame, frame.size[0] // features.shape[-2])

    @property
    @abstractmethod
    def layers(self) -> int:
        """Number of blocks of the encoder."""

    def decode(
        self,
        embedding: Embedding,
        *,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = True,
    ) -> MaskLogits:
        """Answer P prompts; see `PromptableModel.decode`.

        Every prompt is answered as if it were alone: points with label -1 are taken out, not shown to the network.

        Raises
        ------
        InputError
            When there is no prompt or shapes do not fit together.
        """
        frame = self.preprocessing.frame(embedding.shape)
        prompts = self._prompts(frame, points, labels, boxes, masks)
        with self.computing("answering prompts"):
            return self._answer(embedding, prompts, multimask)

    def _answer(self, embedding: Embedding, prompts: Prompts, multimask: bool) -> MaskLogits:
        """Decode prompts in groups that have as many points each."""
        if prompts.points is None or prompts.labels is None:
            return MaskLogits(*self._decode(embedding.tensors, prompts, multimask))
        order = torch.argsort((prompts.labels < 0).int(), dim=1, stable=True)
        labels = torch.gather(prompts.labels, 1, order)
        points = torch.gather(prompts.points, 1, order[..., None].expand(-1, -1, 2))
        prompts = Prompts(points, labels, prompts.boxes, prompts.masks)
        counts = (labels >= 0).sum(1)
        if prompts.boxes is None and prompts.masks is None and bool((counts == 0).any()):
            raise InputError("a prompt has neither a point with label 0 or 1 nor a box nor a mask; give one")
        rows = [torch.nonzero(counts == count)[:, 0] for count in counts.unique()]
        answers = [
            self._decode(embedding.tensors, prompts.rows(index, int(counts[index[0]])), multimask) for index in rows
        ]
        back = torch.argsort(torch.cat(rows))
        return MaskLogits(torch.cat([a for a, _ in answers])[back], torch.cat([b for _, b in answers])[back])

    def upscale(self, logits: Tensor, embedding: Embedding) -> Tensor:
        """Bring (P, K, h, w) logits onto the raster; see `PromptableModel.upscale`."""
        with self.computing("bringing masks to full resolution"):
            return self.preprocessing.frame(embedding.shape).upscale(logits)

    def _prompts(
        self,
        frame: Frame,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        masks: Tensor | None,
    ) -> Prompts:
        kinds = {"points": points, "boxes": boxes, "masks": masks}
        counts = {name: len(value) for name, value in kinds.items() if value is not None}
        if not counts or 0 in counts.values():
            raise InputError(f"{self.card.name} needs a prompt: points with labels, boxes or masks; none was given")
        if len(set(counts.values())) > 1:
            raise InputError(
                f"the numbers of prompts differ ({', '.join(f'{n} {k}' for k, n in counts.items())}); "
                "give as many of each"
            )
        refused = set(counts) - {f"{kind}s" if kind != "box" else "boxes" for kind in self.card.prompts}
        if refused:
            raise InputError(f"{self.card.name} does not answer {' and '.join(sorted(refused))}; see its card")
        count = next(iter(counts.values()))
        self._check("points", points, (count, None, 2))
        self._check("boxes", boxes, (count, 2, 2))
        self._check("masks", masks, (count, 1, None, None))
        if (points is None) != (labels is None) or (
            points is not None and labels is not None and tuple(labels.shape) != tuple(points.shape[:2])
        ):
            raise InputError(
                f"labels of shape {None if labels is None else tuple(labels.shape)} do not fit points of shape "
                f"{None if points is None else tuple(points.shape)}; give one label per point"
            )
        device = self.device
        return Prompts(
            None if points is None else frame.to_input(points.to(device)),
            None if labels is None else labels.to(device, torch.int64),
            None if boxes is None else frame.to_input(boxes.to(device)).reshape(count, 4),
            None if masks is None else masks.to(device, torch.float32),
        )

    @staticmethod
    def _check(name: str, value: Tensor | None, expected: tuple[int | None, ...]) -> None:
        if value is None:
            return
        fits = value.ndim == len(expected) and all(
            e is None or n == e for n, e in zip(value.shape, expected, strict=True)
        )
        if not fits or not torch.isfinite(value.float()).all():
            shape = ", ".join("n" if e is None else str(e) for e in expected)
            raise InputError(f"{name} of shape {tuple(value.shape)} are unsuitable; expected finite ({shape})")

    @abstractmethod
    def _encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return what the decoder needs, in float32, from the (1, 3, size, size) input."""

    @abstractmethod
    def _layer(self, pixels: Tensor, layer: int) -> Tensor:
        """Return the (1, C, h, w) map after one block of the encoder."""

    @abstractmethod
    def _decode(self, tensors: Mapping[str, Tensor], prompts: Prompts, multimask: bool) -> tuple[Tensor, Tensor]:
        """Return (P, K, h, w) logits and (P, K) qualities."""
