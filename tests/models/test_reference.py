"""The same weights in the reference modules of transformers give the same embeddings, masks and qualities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models import tiny
from roireg.models import load

SHAPE = (37, 61)
REFERENCES = {"sam": tiny.sam, "sam-hq": tiny.sam_hq, "sam2": tiny.sam2}
TOLERANCE = {"atol": 1e-4, "rtol": 0}

POINTS = torch.tensor([[[5.0, 40.0], [30.0, 11.5]], [[0.0, 0.0], [36.0, 60.0]], [[18.0, 30.0], [20.0, 33.0]]])
LABELS = torch.tensor([[1, 0], [1, 1], [0, 1]])
BOXES = torch.tensor([[[2.0, 3.0], [30.0, 50.0]], [[0.0, 10.0], [12.0, 20.0]], [[-0.5, -0.5], [36.5, 60.5]]])


def raster() -> Tensor:
    return torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(3)) * 255


def scale(kind: str) -> Tensor:
    """Input pixels per raster pixel, (x, y), by the published rules."""
    if kind == "sam2":
        return torch.tensor([128 / 61, 128 / 37])
    return torch.tensor([128 / 61, int(37 * 128 / 61 + 0.5) / 37])


def to_input(kind: str, places: Tensor) -> Tensor:
    return (places.flip(-1) + 0.5) * scale(kind) - 0.5


def reference_inputs(kind: str, prompts: str) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    if "points" in prompts:
        inputs |= {"input_points": to_input(kind, POINTS)[None], "input_labels": LABELS[None]}
    if "boxes" in prompts:
        inputs["input_boxes"] = to_input(kind, BOXES).reshape(1, -1, 4)
    return inputs


def own_inputs(prompts: str) -> dict[str, Tensor]:
    inputs = {}
    if "points" in prompts:
        inputs |= {"points": POINTS, "labels": LABELS}
    if "boxes" in prompts:
        inputs["boxes"] = BOXES
    return inputs


@pytest.mark.parametrize("stored", ["folder", "file"])
@pytest.mark.parametrize("kind", REFERENCES)
@torch.no_grad()
def test_embeddings_masks_and_qualities(kind, stored, place):
    model = load(place(kind if stored == "folder" else f"{kind}-file"))
    network = REFERENCES[kind]()
    pixels, _ = model.preprocessing(raster())
    embedding = model.encode(raster())
    expected = network.get_image_embeddings(pixels)
    names = {"sam": ["image"], "sam-hq": ["image", "early"], "sam2": ["fine", "middle", "image"]}[kind]
    if kind == "sam-hq":
        expected = [expected[0], expected[1][0]]
    for name, value in zip(names, [expected] if kind == "sam" else expected, strict=True):
        torch.testing.assert_close(embedding.tensors[name], value, **TOLERANCE)
    for prompts in ("points", "boxes", "points and boxes"):
        for multimask in (True, False):
            answer = model.decode(embedding, **own_inputs(prompts), multimask=multimask)
            reference = network(pixels, **reference_inputs(kind, prompts), multimask_output=multimask)
            assert answer.logits.shape == (3, 3 if multimask else 1, 32, 32)
            torch.testing.assert_close(answer.logits, reference.pred_masks[0], **TOLERANCE)
            torch.testing.assert_close(answer.quality, reference.iou_scores[0], **TOLERANCE)


@pytest.mark.parametrize("kind", REFERENCES)
@torch.no_grad()
def test_masks_as_prompts(kind, place):
    """The reference takes one mask per image, so that it is asked once per prompt."""
    model = load(place(kind))
    network = REFERENCES[kind]()
    pixels, _ = model.preprocessing(raster())
    embedding = model.encode(raster())
    masks = torch.randn((3, 1, 32, 32), generator=torch.Generator().manual_seed(1))
    answer = model.decode(embedding, points=POINTS, labels=LABELS, masks=masks)
    alone = model.decode(embedding, masks=masks)
    for i in range(3):
        given = reference_inputs(kind, "points")
        one = {name: value[:, i : i + 1] for name, value in given.items()}
        reference = network(pixels, **one, input_masks=masks[i : i + 1])
        torch.testing.assert_close(answer.logits[i], reference.pred_masks[0, 0], **TOLERANCE)
        torch.testing.assert_close(answer.quality[i], reference.iou_scores[0, 0], **TOLERANCE)
        reference = network(pixels, input_masks=masks[i : i + 1])
        torch.testing.assert_close(alone.logits[i], reference.pred_masks[0, 0], **TOLERANCE)


@torch.no_grad()
def test_masks_return_as_the_reference_brings_them(place):
    """Its two interpolations and ours agree up to the kinks of the second, and the very border, where it repeats."""
    from transformers import SamImageProcessorPil

    model = load(place("sam"))
    smooth = torch.nn.functional.interpolate(
        torch.randn((1, 2, 6, 6), generator=torch.Generator().manual_seed(0)), (32, 32), mode="bicubic"
    )
    for shape in (SHAPE, (90, 40), (300, 200)):
        frame = model.preprocessing.frame(shape)
        reference = SamImageProcessorPil(pad_size={"height": 128, "width": 128}).post_process_masks(
            [smooth], [shape], [frame.resized], binarize=False, pad_size={"height": 128, "width": 128}
        )[0]
        own, border = frame.upscale(smooth), int(1 / frame.scale.min()) + 1
        inner = (..., slice(0, -border), slice(0, -border))
        assert (own - reference)[inner].abs().max() < 0.05 * smooth.std()
        assert ((own > 0) != (reference > 0)).float().mean() < 0.002


@torch.no_grad()
def test_layers_of_the_sam_encoder_are_its_hidden_states(place):
    model = load(place("sam"))
    pixels, _ = model.preprocessing(raster())
    hidden = tiny.sam().vision_encoder(pixels, output_hidden_states=True).hidden_states
    for layer in (0, 1):
        found = model.encode_dense(raster(), layer=layer).tensors["image"]
        torch.testing.assert_close(found, hidden[layer + 1].permute(0, 3, 1, 2), **TOLERANCE)


@torch.no_grad()
def test_layers_of_the_sam_2_encoder_are_its_stages(place):
    model = load(place("sam2"))
    pixels, _ = model.preprocessing(raster())
    stages = tiny.sam2().vision_encoder.backbone(pixels).intermediate_hidden_states
    for layer, stage in ((0, 0), (1, 1), (3, 2), (-1, 3)):
        embedding = model.encode_dense(raster(), layer=layer)
        torch.testing.assert_close(embedding.tensors["image"], stages[stage].permute(0, 3, 1, 2), **TOLERANCE)
        stride = 4 * 2**stage
        assert embedding.scale.tolist() == pytest.approx([128 / 37 / stride, 128 / 61 / stride])
