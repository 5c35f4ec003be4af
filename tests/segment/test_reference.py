"""Everything mode, prompts and features with real networks of random weights, and against the reference generator."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch

from models.tiny import ENCODERS, KINDS, sam, sam_folder, saved
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import Prompt
from roireg.features import make_extractor
from roireg.match import MatchOptions, match
from roireg.models.cache import EmbeddingCache
from roireg.models.registry import load
from roireg.segment import SliceSegmenter, make_segmenter
from roireg.segment.everything import EverythingOptions, everything
from roireg.segment.promptable import ModelSegmenter
from support import make_grid

# Random weights: answers are noise of small amplitude, so that the thresholds must be low.
LOOSE = EverythingOptions(points=8, pred_iou_thresh=0.05, stability_score_thresh=0.3, stability_score_offset=0.005)
ISLANDS = EverythingOptions(points=8, pred_iou_thresh=0.02, stability_score_thresh=0.3, stability_score_offset=0.001)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sam_folder(tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="module")
def model(folder):
    return load(folder)


def picture(shape, seed: int = 0) -> np.ndarray:
    """(*shape, 3) uint8 smooth noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(PIL.Image.fromarray(coarse).resize(shape[::-1], PIL.Image.Resampling.BICUBIC))


def peaks_only(module, arguments, output):
    """Lower the logits of a decoder until only the highest places are inside: islands instead of noise everywhere."""
    logits, *others = output
    flat = logits.flatten(-2)
    top, middle = flat.amax(-1)[..., None, None], flat.median(-1).values[..., None, None]
    return (logits - (middle + 0.6 * (top - middle)), *others)


def plain_nms(boxes, scores, limit) -> list[int]:
    """The definition, boxes as x0, y0, x1, y1."""
    kept: list[int] = []
    for k in torch.argsort(scores, descending=True, stable=True).tolist():
        for j in kept:
            low, high = torch.maximum(boxes[k, :2], boxes[j, :2]), torch.minimum(boxes[k, 2:], boxes[j, 2:])
            shared = (high - low).clamp(min=0).prod()
            sizes = (boxes[[k, j], 2:] - boxes[[k, j], :2]).prod(1).sum()
            if shared / (sizes - shared) > limit:
                break
        else:
            kept.append(k)
    return kept


def reference(pixels: np.ndarray, monkeypatch) -> list[tuple[float, np.ndarray]]:
    """Scores and masks of the generator of transformers, whose one call into torchvision is replaced."""
    from transformers import SamImageProcessorPil
    from transformers.models.sam.image_processing_pil_sam import _rle_to_mask
    from transformers.pipelines.mask_generation import MaskGenerationPipeline

    def finish(self, masks, scores, boxes, limit):
        kept = plain_nms(boxes.float(), scores, limit)
        masks = [masks[k] for k in kept]
        return [_rle_to_mask(m) for m in masks], scores[kept], masks, boxes[kept]

    monkeypatch.setattr(SamImageProcessorPil, "post_process_for_mask_generation", finish)
    network = sam()
    network.mask_decoder.register_forward_hook(peaks_only)
    processor = SamImageProcessorPil(
        size={"longest_edge": 128},
        pad_size={"height": 128, "width": 128},
        mask_size={"longest_edge": 32},
        mask_pad_size={"height": 32, "width": 32},
    )
    pipe = MaskGenerationPipeline(model=network, image_processor=processor, device="cpu")
    found = pipe(
        PIL.Image.fromarray(pixels),
        points_per_batch=20,
        points_per_crop=ISLANDS.points,
        pred_iou_thresh=ISLANDS.pred_iou_thresh,
        stability_score_thresh=ISLANDS.stability_score_thresh,
        stability_score_offset=ISLANDS.stability_score_offset,
        crops_nms_thresh=ISLANDS.box_nms_thresh,
    )
    return [(float(s), np.asarray(m).astype(bool)) for s, m in zip(found["scores"], found["masks"], strict=True)]


@pytest.mark.parametrize("shape", [(128, 128), (96, 128), (128, 70)])
def test_the_same_masks_as_the_reference_generator(model, monkeypatch, shape):
    pixels = picture(shape)
    wanted = reference(pixels, monkeypatch)
    raster = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float()
    handle = model.network.mask_decoder.register_forward_hook(peaks_only)
    found = everything(model, raster, options=ISLANDS)
    unsuppressed = everything(model, raster, options=ISLANDS.model_copy(update={"box_nms_thresh": 1.0}))
    handle.remove()
    assert len(unsuppressed) > len(found) == len(wanted) > 2
    order = torch.argsort(found.quality, descending=True, stable=True).tolist()
    for k, (score, mask) in zip(order, wanted, strict=True):
        assert float(found.quality[k]) == pytest.approx(score, abs=1e-5)
        # Interpolating in one step or in two differs in the last digit: single pixels whose logit is 0.
        assert (found.masks[k].numpy() != mask).mean() < 1e-3


def test_a_network_by_path_segments_prompts_and_describes(folder, tmp_path):
    image = Image(
        torch.from_numpy(picture((60, 90)).copy()).permute(2, 0, 1).float(), make_grid((60, 90), (0.5, 0.8))
    )
    cache = EmbeddingCache(folder=tmp_path)
    segmenter = make_segmenter("model", model=str(folder), profile="fast", options=LOOSE, cache=cache)
    features = make_extractor("model", model=str(folder), profile="fast", cache=cache)
    found = segmenter(image)
    assert len(found) and found.grid == image.grid
    answer = segmenter.prepare(image).answer(Prompt.at(image.grid.center))
    assert 1 <= len(answer) <= 3 and (answer.scores.diff() <= 0).all()
    box = np.stack([image.grid.world_from_index([10, 10]), image.grid.world_from_index([40, 50])])
    prompt = Prompt(np.zeros((0, 2)), np.zeros(0), box=box)
    assert len(segmenter.segmenter.prepare(image).answer(prompt, mask=answer.subset([0]))) >= 1
    # The features come from another load of the same weights: the file of the segmenter is enough.
    dense = features(image, image.grid)
    assert dense.data.shape == (32, 6, 8) and features.model.encoded == 0
    assert segmenter.segmenter.model.encoded == 1
    again = make_segmenter("model", model=str(folder), profile="fast", options=LOOSE, cache_folder=tmp_path)
    assert torch.equal(again(image).masks, found.masks)
    assert again.segmenter.model.encoded == 0


@pytest.mark.parametrize("kind", [k for k in KINDS if k.endswith("-file") or k in ("sam-med2d", "mobile-sam")])
def test_every_architecture_segments_prompts_describes_and_matches(kind, tmp_path):
    image = Image(
        torch.from_numpy(picture((50, 72)).copy()).permute(2, 0, 1).float(), make_grid((50, 72), (0.5, 0.8))
    )
    cache = EmbeddingCache()
    options = EverythingOptions(points=3, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1.0)
    segmenter = make_segmenter("model", model=saved(kind, tmp_path), options=options, cache=cache)
    network = segmenter.segmenter.model
    features = make_extractor("model", model=network, cache=cache)
    found = segmenter(image)
    dense = features(image, image.grid)
    if len(found):
        pairs = match(found, found, dense, dense, options=MatchOptions(geometric=False))
        assert len(pairs) > 0
    answers = segmenter.prepare(image).answer(Prompt.at(image.grid.center))
    box = Prompt(np.zeros((0, 2)), np.zeros(0), box=image.grid.world_from_index([[5.0, 6.0], [40.0, 60.0]]))
    for rois in (found, answers, segmenter.prepare(image).answer(box)):
        assert rois.grid == image.grid
        assert bool(((rois.scores >= 0) & (rois.scores <= 1)).all())
    assert network.encoded == 1


@pytest.mark.parametrize("kind", [*KINDS, *ENCODERS])
def test_cells_of_every_architecture_lie_where_the_pixels_are(kind, tmp_path):
    # Brighten a block of pixels and look where the features change most: around the middle of the block.
    grid = make_grid((64, 128), (0.5, 0.5))
    data = torch.full((3, 64, 128), 90.0)
    changed = data.clone()
    changed[:, 16:48, 64:96] = 170.0
    features = make_extractor("model", model=saved(kind, tmp_path), layer=0, cache=EmbeddingCache(), window="none")
    before, after = (features(Image(d, grid), grid) for d in (data, changed))
    # Attention spreads a little of the change everywhere.
    change = (before.data - after.data).norm(dim=0).flatten().numpy()
    place = before.grid.points()[change > 0.5 * change.max()].mean(0)
    # Overlapping first convolutions look 1.5 pixels of the input aside, half a cell of their finest map; on some
    # processors rounding takes one more row of cells over the threshold.
    most = 1.1 if kind.startswith(("sam2", "mobile")) else 0.1
    assert (np.abs(place - grid.world_from_index([31.5, 79.5])) < most * before.grid.spacing[::-1]).all()


def test_a_volume_slice_by_slice_and_a_click_in_it(model):
    data = torch.from_numpy(np.stack([picture((48, 64), s)[..., 0] for s in (0, 0, 1)]).copy())[None].float()
    data += torch.arange(3.0)[:, None, None]
    image = Image(data, make_grid((3, 48, 64), (5.0, 1.0, 1.0)))
    inner = ModelSegmenter(model, options=LOOSE, cache=EmbeddingCache())
    before = model.encoded
    segmenter = SliceSegmenter(inner, min_slices=1)
    assert len(segmenter(image)) > 0
    segmenter.prepare(image).answer(Prompt.at(image.grid.center))
    make_extractor("model", model=model, cache=inner.cache)(image, image.grid)
    assert model.encoded - before == 3


def test_a_gray_picture_of_one_row_is_no_special_case(model):
    row = Image(torch.arange(40.0).reshape(1, 1, 40), Grid.pixels((1, 40)))
    inner = ModelSegmenter(model, options=LOOSE, cache=EmbeddingCache())
    assert inner.prepare(row).answer(Prompt.at((20, 0))).grid == row.grid
    assert make_extractor("model", model=model, cache=inner.cache)(row, row.grid).grid.shape[0] == 1
