"""What encoding and everything mode cost on this machine, and where it goes: ``roireg bench speed``.

The network is a SAM ViT-B with random weights: no checkpoint is needed, and the time does not depend on the values.
Totals for a profile are one measured encoding plus all its points at the rate of one measured batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from roireg.core.errors import InputError
from roireg.core.seeds import generator
from roireg.models.base import LoadReport
from roireg.models.hugging import transformers_class
from roireg.models.precision import Precision, choose_precision
from roireg.models.profiles import PROFILES, Profile
from roireg.models.registry import untrained
from roireg.models.sam import SamNetwork
from roireg.segment.candidates import pack
from roireg.segment.everything import EverythingOptions, everything, point_grid, upscaled_at_once

__all__ = [
    "Cost",
    "compare_with_reference",
    "end_to_end",
    "measure",
    "profile_table",
    "random_sam",
    "reference_seconds",
    "speed_page",
]

NATIVE = 1024
"""Input size that SAM is published for."""

BATCH = 64


@dataclass(frozen=True)
class Cost:
    """Seconds of one image of size x size pixels: encoding it, and per 64 points decoding and the rest."""

    size: int
    dtype: str
    encode: float
    decode: float
    upscale: float
    sort: float

    def total(self, points: int) -> float:
        """Seconds of everything mode with `points` per side."""
        return self.encode + points**2 / BATCH * (self.decode + self.upscale + self.sort)


def random_sam(size: int, *, dtype: Precision = None, device: str = "cpu", seed: int = 0) -> SamNetwork:
    """Return a SAM ViT-B with random weights that sees `size` x `size` pixels."""
    torch.manual_seed(seed)
    blank = untrained("sam", input_size=size, device=device)
    # Time does not depend on the values, so that the random weights pass for trained ones.
    model = SamNetwork(blank.card, blank.network, size, key=f"random-{seed}-{size}-{dtype}", report=LoadReport())
    model.set_precision(choose_precision(dtype, blank.device))
    return model


def measure(model: SamNetwork, size: int, *, clock: Callable[[], float] = perf_counter) -> Cost:
    """Time one encoding and one batch; every mask is taken for good, so sorting them out is at its slowest."""
    raster = _noise(size)

    def timed(work: Callable[[], Any]) -> tuple[float, Any]:
        _wait(model.device)
        start = clock()
        result = work()
        _wait(model.device)
        return clock() - start, result

    crop = np.array([[0, 0], [size, size]])
    points = torch.as_tensor(point_grid((size, size), EverythingOptions(points=8)), dtype=torch.float32)
    labels = torch.ones((BATCH, 1), dtype=torch.int64)
    with torch.no_grad():
        encode, embedding = timed(lambda: model.encode(raster))
        step = EverythingOptions().batch_for(embedding)
        decode, answers = timed(
            lambda: [
                model.decode(embedding, points=points[i : i + step, None], labels=labels[i : i + step])
                for i in range(0, BATCH, step)
            ]
        )
        logits = torch.cat([a.logits for a in answers]).flatten(0, 1)
        quality = torch.cat([a.quality for a in answers]).flatten()
        # A few masks, in the portions of everything mode; the rest of the batch at the same rate.
        at_once = upscaled_at_once(model.device, (size, size))
        some = min(len(logits), max(16, at_once))
        upscale, full = timed(
            lambda: [model.upscale(part[:, None], embedding)[:, 0] for part in logits[:some].split(at_once)]
        )
        sort, _ = timed(
            lambda: [
                pack(part, q, offset=1e-6, min_stability=0, crop=crop, shape=(size, size))
                for part, q in zip(full, quality[:some].split(at_once), strict=True)
            ]
        )
    rate = len(logits) / some
    return Cost(size, str(model.dtype).removeprefix("torch."), encode, decode, upscale * rate, sort * rate)


def reference_seconds(
    model: SamNetwork, rasters: Sequence[Tensor], points: int, *, clock: Callable[[], float] = perf_counter
) -> float:
    """Return the seconds that transformers' mask generation takes for (3, size, size) images, without its last step.

    Published thresholds, 64 points at a time. The last step, suppression of boxes, needs torchvision and is left out.
    """
    size = rasters[0].shape[-1]
    processor = transformers_class("SamImageProcessorPil")(
        size={"longest_edge": size},
        pad_size={"height": size, "width": size},
        mask_size={"longest_edge": size // 4},
        mask_pad_size={"height": size // 4, "width": size // 4},
    )
    pipeline = transformers_class("MaskGenerationPipeline")(
        model=model.network, image_processor=processor, device=model.device
    )
    pictures = [_picture(raster.permute(1, 2, 0).byte().numpy()) for raster in rasters]
    start = clock()
    with torch.no_grad():
        for picture in pictures:
            for part in pipeline.preprocess(picture, points_per_crop=points, points_per_batch=BATCH):
                pipeline._forward({k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in part.items()})
    return clock() - start


def compare_with_reference(
    model: SamNetwork, size: int, points: int, *, clock: Callable[[], float] = perf_counter
) -> tuple[float, float]:
    """Return the seconds of transformers' mask generation without its last step, and of ours with all steps.

    Same network, image, points and published thresholds, each with its own size of batches.
    """
    raster = _noise(size)
    reference = reference_seconds(model, [raster], points, clock=clock)
    start = clock()
    everything(model, raster, options=EverythingOptions(points=points))
    return reference, clock() - start


def end_to_end(
    *,
    size: int = NATIVE,
    points: int = PROFILES["full"].points,
    profile: Profile = PROFILES["fast"],
    device: str = "cpu",
    clock: Callable[[], float] = perf_counter,
) -> tuple[float, float]:
    """Return the seconds for a pair of size x size images: the reference as published, and a profile of ours.

    Ours keeps every mask, its slowest case; the reference drops masks by the published thresholds, its fastest.
    """
    rasters = [_noise(size, number) for number in range(2)]
    reference = reference_seconds(random_sam(size, device=device), rasters, points, clock=clock)
    model = random_sam(profile.input_size or size, dtype=profile.dtype, device=device)
    options = EverythingOptions(
        points=profile.points, crop_layers=profile.crop_layers, pred_iou_thresh=0.0, stability_score_thresh=0.0
    )
    start = clock()
    for raster in rasters:
        everything(model, raster, options=options)
    return reference, clock() - start


def profile_table(costs: dict[tuple[int, str], Cost]) -> str:
    """Return a Markdown table of the profiles; a pair is two images. `costs` by size and the profile's number format.

    Raises
    ------
    InputError
        When the cost of the published setting is not among them.
    """
    if (NATIVE, "float32") not in costs:
        raise InputError(f"the profiles are compared with {NATIVE} pixels in float32, which was not measured")
    base = 2 * costs[NATIVE, "float32"].total(PROFILES["full"].points)
    rows = [
        "| profile | input | precision | points | encode | decode | upscale | keep or drop | pair | faster |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, profile in PROFILES.items():
        cost = costs[profile.input_size or NATIVE, str(profile.dtype)]
        batches = profile.points**2 / BATCH
        parts = (cost.encode, batches * cost.decode, batches * cost.upscale, batches * cost.sort)
        seconds = 2 * cost.total(profile.points)
        cells = " | ".join(f"{2 * p:.1f} s" for p in parts)
        rows.append(
            f"| {name} | {cost.size} | {cost.dtype} | {profile.points}² | {cells} | {seconds:.1f} s "
            f"| {base / seconds:.1f} x |"
        )
    return "\n".join(rows) + "\n"


def _noise(size: int, seed: int = 0) -> Tensor:
    values = generator(seed, stream="models speed").integers(0, 256, (3, size, size))
    return torch.from_numpy(values.astype(np.float32))


def _picture(pixels: np.ndarray) -> Any:
    # The reference takes pictures of this library only; nothing else here needs it.
    from PIL import Image as Picture

    return Picture.fromarray(pixels)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def speed_page(
    *,
    device: str = "cpu",
    reference_size: int = 256,
    reference_points: int = 16,
    whole_pair: bool = False,
    clock: Callable[[], float] = perf_counter,
) -> str:
    """Measure everything and return it as Markdown.

    Parameters
    ----------
    reference_size, reference_points : pixels and points per side of the comparison with transformers.
    whole_pair : also time a whole pair as published against the profile `fast`, which takes ten minutes.
    clock : `perf_counter`, or `process_time` on a machine that others use too.

    Raises
    ------
    InputError
        When the size does not suit the network.
    """
    model = random_sam(reference_size, device=device)
    reference, ours = compare_with_reference(model, reference_size, reference_points, clock=clock)
    del model
    costs = {}
    for size, dtype in sorted({(p.input_size or NATIVE, str(p.dtype)) for p in PROFILES.values()}):
        costs[size, dtype] = measure(random_sam(size, dtype=dtype, device=device), size, clock=clock)
    text = (
        f"SAM ViT-B, random weights, {device}, {torch.get_num_threads()} thread(s), "
        f"{'processor' if clock is process_time else 'wall'} time; a pair is two images.\n\n{profile_table(costs)}\n"
        f"At {reference_size} px and {reference_points}² points: mask generation of transformers "
        f"{reference:.2f} s without its last step, ours {ours:.2f} s ({reference / ours:.1f} x).\n"
    )
    if whole_pair:
        reference, ours = end_to_end(device=device, clock=clock)
        text += (
            f"End to end, a pair of {NATIVE} px images: mask generation of transformers with "
            f"{PROFILES['full'].points}² points {reference:.1f} s without its last step, profile `fast` "
            f"{ours:.1f} s ({reference / ours:.1f} x).\n"
        )
    return text
