"""The shipped anatomical embedding as a part of other networks: batches of images to vectors, weights held still."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from roireg.models.anatomical import COARSEST, WEIGHTS
from roireg.models.checkpoint import fill, read_tensors, shapes_of
from roireg.models.embedding_network import EmbeddingNet, joined_maps

__all__ = ["Describer"]


class Describer:
    """Embeddings of batches of images; no module, so that nothing trains, moves or saves its weights.

    Parameters
    ----------
    ndim : of the images.
    """

    def __init__(self, ndim: int) -> None:
        self.ndim = ndim

    @property
    def channels(self) -> int:
        """Of the vectors: those of all strides together."""
        return sum(head.out_channels for head in _network(self.ndim, torch.device("cpu")).heads)

    def __call__(self, images: Tensor) -> Tensor:
        """Return (B, C, *cells) vectors of about unit length at stride 2 of (B, 1, *shape) images in 0..1.

        Cells tile the images from the first voxel on; the last ones may reach beyond, where the border repeats.
        """
        shape = images.shape[2:]
        padding = [p for n in reversed(shape) for p in (0, -n % COARSEST)]
        with torch.no_grad():
            maps = _network(self.ndim, images.device)(F.pad(images.float(), padding, mode="replicate"))
            joined = joined_maps(maps)
        inside: Any = (..., *(slice(0, -(-n // 2)) for n in shape))
        return joined[inside]


@lru_cache(maxsize=4)
def _network(ndim: int, device: torch.device) -> Any:
    path = WEIGHTS / f"embedding-{ndim}d.safetensors"
    tensors = read_tensors(path)
    network = EmbeddingNet(**EmbeddingNet.settings(shapes_of(tensors)))
    fill(network, tensors, source=path, name=path.stem)
    return network.eval().requires_grad_(False).to(device)
