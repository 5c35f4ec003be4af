"""SAM-Med3D (Wang et al. 2023, arXiv 2310.15161): points in a volume to a mask in 3D.

Checkpoints load as published. Prompts are answered by the published protocol: one point after another, each seeing
the mask that the points before it gave, the first one an empty mask.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from roireg.core.errors import InputError
from roireg.core.filters import resize
from roireg.io.weights import weight_files
from roireg.models.base import Embedding, LoadReport, MaskLogits, ModelCard
from roireg.models.checkpoint import fill, read_tensors
from roireg.models.memory import memory_explained
from roireg.models.precision import Precision, choose_precision
from roireg.models.sam_med3d_network import SamMed3DConfig, SamMed3DNetwork
from roireg.models.volumes import Cube, VolumeInput, check_points, stability

__all__ = ["CARDS", "SamMed3D", "load"]


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


class SamMed3D:
    """A SAM-Med3D network with its weights on a device; see `PromptableModel`.

    The trained network gives one mask per prompt and no estimate of its quality: only the first of its mask tokens
    was trained, and so `quality` is the stability of the mask.

    Parameters
    ----------
    card : what is known of the model. network : with its weights. key : see `PromptableModel`.
    report : how the checkpoint met the network.
    """

    def __init__(self, card: ModelCard, network: SamMed3DNetwork, *, key: str, report: LoadReport) -> None:
        self.card = card
        self.network = network.eval().requires_grad_(False)
        self.key = key
        self.report = report
        self.encoded = 0
        assert isinstance(card.preprocessing, VolumeInput)
        self.volume = replace(card.preprocessing, patch=network.config.side)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.prompt_encoder.no_mask_embed.weight.device

    @torch.no_grad()
    def encode(self, raster: Tensor) -> Embedding:
        """Encode a (1 or 3, z, y, x) raster; values above 0 are foreground and set mean and deviation.

        Raises
        ------
        InputError
            When the device has too little memory.
        """
        return self.encode_dense(raster)

    @torch.no_grad()
    def encode_dense(self, raster: Tensor, *, layer: int | None = None) -> Embedding:
        """Encode for features alone: the map the decoder reads, or that after a block (0 the first, -1 the last).

        Raises
        ------
        InputError
            When there is no such block, or the device has too little memory.
        """
        encoder = self.network.image_encoder
        blocks = len(encoder.blocks)
        if layer is not None and not -blocks <= layer < blocks:
            raise InputError(f"{self.card.name} has blocks 0 to {blocks - 1}, not {layer}; choose one of these")
        cube = self._cube(tuple(raster.shape[1:]))
        data = normalised(cube.fill(raster.to(self.device)))
        self.encoded += 1
        with memory_explained(self.card, "encoding"):
            # The network was trained on arrays in the order x, y, z.
            features = encoder(data.permute(0, 3, 2, 1)[None].to(encoder.pos_embed.dtype), layer=layer).float()
        scale, offset, covered = cube.index_map(self.network.config.patch)
        return Embedding({"image": features.permute(0, 1, 4, 3, 2).contiguous()}, cube.shape, scale, offset, covered)

    @torch.no_grad()
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
        """Answer P prompts of points, one mask each whatever `multimask` says; see `PromptableModel.decode`.

        Raises
        ------
        InputError
            When there are no points, there are boxes, shapes do not fit, or the device has too little memory.
        """
        if boxes is not None:
            raise InputError(f"{self.card.name} takes points, not boxes; give a point inside the region")
        points, labels = check_points(self.card, points, labels)
        cube, side = self._cube(embedding.shape), self.network.config.tokens * 4
        placed = cube.coordinates(points.to(self.device, torch.float32)).flip(-1)
        kinds = labels.to(self.device)
        image = embedding.tensors["image"].to(self.device).permute(0, 1, 4, 3, 2).expand(len(placed), -1, -1, -1, -1)
        if masks is None:
            answer = image.new_zeros((len(placed), 1, side, side, side))
        elif tuple(masks.shape) != (len(placed), 1, side, side, side):
            raise InputError(
                f"masks of shape {tuple(masks.shape)} do not fit {len(placed)} prompts of {self.card.name}; expected "
                f"{(len(placed), 1, side, side, side)}, as an earlier answer has"
            )
        else:
            answer = masks.to(self.device, torch.float32).permute(0, 1, 4, 3, 2)
        with memory_explained(self.card, f"answering {len(placed)} prompts"):
            for n in range(placed.shape[1]):
                rows = torch.nonzero(kinds[:, n] >= 0)[:, 0]
                if len(rows):
                    asked = (placed[rows, n : n + 1], kinds[rows, n : n + 1])
                    answer = answer.index_copy(0, rows, self.network.decode(image[rows], *asked, answer[rows])[:, :1])
        logits = answer.permute(0, 1, 4, 3, 2).contiguous()
        return MaskLogits(logits, stability(logits))

    @torch.no_grad()
    def upscale(self, logits: Tensor, embedding: Embedding) -> Tensor:
        """Bring (P, K, n, n, n) logits onto the raster; see `PromptableModel.upscale`."""
        with memory_explained(self.card, "bringing masks to full resolution"):
            return self._cube(embedding.shape).release(logits)

    def _cube(self, shape: tuple[int, ...]) -> Cube:
        return Cube(shape, self.network.config.side)


def normalised(data: Tensor) -> Tensor:
    """Subtract the mean and divide by the standard deviation of the positive values (of all where none is)."""
    positive = data > POSITIVE
    inside = data[positive] if bool(positive.any()) else data.flatten()
    deviation = inside.std() if len(inside) > 1 else inside.new_zeros(())
    return (data - inside.mean()) / torch.where(deviation > 0, deviation, torch.ones_like(deviation))


def load(
    card: ModelCard,
    path: Path,
    *,
    device: torch.device,
    digest: str,
    input_size: int | None = None,
    precision: Precision = None,
) -> SamMed3D:
    """Load a published or own checkpoint of any size of the architecture; see `roireg.models.sam.load`.

    Raises
    ------
    InputError
        When the file does not fit the card, or the input size or number format is unsuitable.
    """
    dtype = choose_precision(precision, device)
    file = path if path.is_file() else (weight_files(path) or [path])[0]
    tensors = read_tensors(file)
    with torch.device("meta"):
        network = SamMed3DNetwork(SamMed3DConfig.of(tensors))
    report = fill(network, tensors, source=file, name=card.name)
    if input_size is not None and input_size != network.config.side:
        network = resized(network, input_size)
    network.to(device)
    network.image_encoder.to(dtype)
    key = f"{card.name}-{digest[:16]}-{network.config.side}-{str(dtype).removeprefix('torch.')}"
    return SamMed3D(card, network, key=key, report=report)


def resized(network: SamMed3DNetwork, side: int) -> SamMed3DNetwork:
    """Return the network for cubes of another size: position tables are interpolated, the rest stays.

    Raises
    ------
    InputError
        When the size is no multiple of the patch size, or below two patches.
    """
    old, patch = network.config, network.config.patch
    if side < 2 * patch or side % patch:
        raise InputError(f"input size {side} is unsuitable; use a multiple of {patch} from {2 * patch} on")
    tokens = side // patch
    # Blocks that see the whole cube go on doing so; the windows of the others keep their size.
    windows = tuple(tokens if w == old.tokens else w for w in old.windows)
    settings = {f: getattr(old, f) for f in old.__dataclass_fields__} | {"side": side, "windows": windows}
    with torch.device("meta"):
        new = SamMed3DNetwork(SamMed3DConfig(**settings))
    state = dict(network.state_dict())
    for name, wanted in new.state_dict().items():
        if state[name].shape == wanted.shape:
            continue
        if name == "image_encoder.pos_embed":
            state[name] = resize(state[name][0].movedim(-1, 0), (tokens,) * 3).movedim(0, -1)[None].contiguous()
        else:
            state[name] = resize(state[name].T, wanted.shape[:1]).T.contiguous()
    new.load_state_dict({k: nn.Parameter(v, requires_grad=False) for k, v in state.items()}, assign=True)
    return new
