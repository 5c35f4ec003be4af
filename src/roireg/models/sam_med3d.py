"""SAM-Med3D (Wang et al. 2023, arXiv 2310.15161): points in a volume to a mask in 3D.

Checkpoints load as published. Prompts are answered by the published protocol: one point after another, each seeing
the mask that the points before it gave, the first one an empty mask.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from roireg.core.errors import InputError
from roireg.core.filters import resize
from roireg.models.base import ModelCard, Signs
from roireg.models.checkpoint import Shapes
from roireg.models.family import Family
from roireg.models.sam_med3d_network import SamMed3DConfig, SamMed3DNetwork, sizes_of
from roireg.models.sam_names import vit_signs
from roireg.models.volumes import VolumeInput, VolumeNetwork, xyz

__all__ = ["FAMILY", "SamMed3D"]


def _card(name: str, file: str, hub_id: str | None, notes: str) -> ModelCard:
    return ModelCard(
        name=name,
        family="sam-med3d",
        hub_id=hub_id,
        source="https://github.com/uni-medical/SAM-Med3D",
        files=(file,),
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        ndim=3,
        input_size=128,
        parameters=100.5,
        memory_mb=800,
        prompts=frozenset({"point", "mask"}),
        notes=notes,
        preprocessing=VolumeInput(spacing=1.5, patch=128),
        size="ViT-B",
    )


CARDS = (
    _card(
        "sam-med3d-turbo",
        "sam_med3d_turbo.pth",
        "blueyo0/SAM-Med3D",
        "volumes of any modality at 1.5 mm; fine-tuned on 44 data sets, the one to start with",
    ),
    _card(
        "sam-med3d",
        "sam_med3d.pth",
        None,
        "volumes of any modality at 1.5 mm; the model of the paper",
    ),
)


POSITIVE = 1e-3
"""Smallest positive value of a raster of 0..255: interpolated zeros are not always zero."""


class SamMed3D(VolumeNetwork):
    """A SAM-Med3D; see `VolumeNetwork`. Only the first of its mask tokens was trained."""

    def _check_layer(self, layer: int | None) -> None:
        self._block(layer, len(self.network.image_encoder.blocks))

    def _features(self, data: Tensor, layer: int | None) -> Tensor:
        """Return the map; values above 0 are foreground and set mean and deviation."""
        features: Tensor = self.network.image_encoder(normalised(data).to(self.dtype), layer=layer)
        return features.float()

    def _answers(self, image: Tensor, points: Tensor, labels: Tensor, masks: Tensor | None) -> Tensor:
        shape = (len(points), 1, *(self.network.config.tokens * 4,) * 3)
        if masks is None:
            answers = image.new_zeros(shape)
        elif tuple(masks.shape) != shape:
            raise InputError(
                f"masks of shape {tuple(masks.shape)} do not fit {len(points)} prompts of {self.card.name}; expected "
                f"{shape}, as an earlier answer has"
            )
        else:
            answers = xyz(masks.to(self.device, torch.float32))
        image = image.expand(len(points), -1, -1, -1, -1)
        for n in range(points.shape[1]):
            rows = torch.nonzero(labels[:, n] >= 0)[:, 0]
            if len(rows):
                prompts = (points[rows, n : n + 1], labels[rows, n : n + 1])
                better = self.network.decode(image[rows], *prompts, answers[rows])[:, :1]
                answers = answers.index_copy(0, rows, better)
        return answers


def normalised(data: Tensor) -> Tensor:
    """Subtract the mean and divide by the standard deviation of the positive values (of all where none is)."""
    positive = data > POSITIVE
    inside = data[positive] if bool(positive.any()) else data.flatten()
    deviation = inside.std() if len(inside) > 1 else inside.new_zeros(())
    return (data - inside.mean()) / torch.where(deviation > 0, deviation, torch.ones_like(deviation))


def resize_cube(network: SamMed3DNetwork, size: int | None, card: ModelCard) -> tuple[SamMed3DNetwork, int]:
    """Return the network for cubes of another size: position tables are interpolated, the rest stays.

    Raises
    ------
    InputError
        When the size is no multiple of the patch size, or below two patches.
    """
    old, patch = network.config, network.config.patch
    side = old.side if size is None else size
    if side == old.side:
        return network, side
    if side < 2 * patch or side % patch:
        raise InputError(f"input size {side} is unsuitable; use a multiple of {patch} from {2 * patch} on")
    tokens = side // patch
    # Blocks that see the whole cube go on doing so; the windows of the others keep their size.
    windows = tuple(tokens if w == old.tokens else w for w in old.windows)
    with torch.device("meta"):
        new = SamMed3DNetwork(replace(old, side=side, windows=windows))
    state = dict(network.state_dict())
    for name, template in new.state_dict().items():
        if state[name].shape == template.shape:
            continue
        if name == "image_encoder.pos_embed":
            state[name] = resize(state[name][0].movedim(-1, 0), (tokens,) * 3).movedim(0, -1)[None].contiguous()
        else:
            state[name] = resize(state[name].T, template.shape[:1]).T.contiguous()
    new.load_state_dict({k: nn.Parameter(v) for k, v in state.items()}, assign=True)
    return new, side


def _recognise(shapes: Shapes) -> Signs | None:
    return vit_signs(shapes, 3)


FAMILY = Family(
    name="sam-med3d",
    title="SAM-Med3D",
    cards=CARDS,
    model=SamMed3D,
    recognise=_recognise,
    settings=lambda shapes, card, path: sizes_of(shapes),
    build=lambda settings: SamMed3DNetwork(SamMed3DConfig(**settings)),
    resize=resize_cube,
)
