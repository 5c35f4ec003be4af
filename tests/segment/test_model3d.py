from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from models.tiny import sam_med3d
from roireg.core.errors import GeometryError, InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import Prompt
from roireg.models import load
from roireg.models.base import Embedding, MaskLogits, ModelCard
from roireg.models.cache import EmbeddingCache
from roireg.models.sam_med3d import SamMed3D
from roireg.models.volumes import VolumeInput
from roireg.segment.base import PromptableImage
from roireg.segment.cubes import Volume, patient_grid
from roireg.segment.everything import EverythingOptions
from roireg.segment.filters import RegionFilter
from roireg.segment.model3d import Model3DSegmenter
from roireg.segment.networks import model_segmenter
from roireg.segment.promptable import probabilities
from segment.phantoms import best_dice, ellipsoid, image_of
from support import axis_orders, dice, grids, make_grid, rotation


class Toy:
    """A "network" whose answers are known: a ball around every point, or the bright component it lies in."""

    def __init__(self, *, radius: float | None = None, patch: int | None = 24, spacing: float | None = 1.5):
        self.card = ModelCard("toy", "toy", None, "", (), "MIT", "MIT", 3, patch or 0, 0.0, 1, frozenset({"point"}))
        self.volume = VolumeInput(spacing, patch)
        self.radius, self.key, self.encoded, self.device = radius, f"toy {radius} {patch}", 0, torch.device("cpu")

    def encode(self, raster):
        self.encoded += 1
        shape = tuple(raster.shape[1:])
        return Embedding({"image": raster[None]}, shape, np.ones(3), np.zeros(3), shape)

    def decode(self, embedding, *, points=None, labels=None, boxes=None, masks=None, multimask=True):
        raster = embedding.tensors["image"][0, 0]
        index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in raster.shape), indexing="ij"), dim=-1).float()
        parts = torch.from_numpy(ndimage.label(raster.numpy() > 100)[0])
        rows = []
        for place, kind in zip(points, labels, strict=True):
            row = torch.full(raster.shape, -9.0)
            for p in place[kind == 1]:
                if self.radius is None:
                    number = parts[tuple(p.round().long().tolist())]
                    ball = torch.where((parts == number) & (number > 0), 9.0, -9.0)
                else:
                    ball = self.radius / 1.5 - (index - p).norm(dim=-1)
                row = torch.maximum(row, ball)
            rows.append(row)
        logits = torch.stack(rows)[:, None]
        return MaskLogits(logits, (logits > 0).flatten(2).any(-1).float() * 0.9)

    def upscale(self, logits, embedding):
        return logits


def segmenter(model, **options) -> Model3DSegmenter:
    return Model3DSegmenter(model, cache=EmbeddingCache(), **options)


def ball_image(grid: Grid, center, radii) -> tuple[Image, np.ndarray]:
    mask = ellipsoid(grid, center, np.broadcast_to(radii, (3,)))
    return image_of(200.0 * mask, grid), mask


@pytest.mark.parametrize("order", range(0, 48, 5))
def test_a_prompt_in_mm_comes_back_where_it_was_asked(order):
    # 10:3 anisotropy, every kind of axis order, and an oblique turn.
    grid = make_grid((21, 33, 30), (3.0, 1.0, 1.2), rotation(3, 4) @ axis_orders(3)[order], (30, -50, 80))
    image, _ = ball_image(grid, grid.center, 5)
    target = grid.world_from_index([9, 20, 14])
    found = segmenter(Toy(radius=8.0)).prepare(image).answer(Prompt.at(target))
    assert found.grid == grid and len(found) == 1
    assert dice(found.masks[0].numpy(), ellipsoid(grid, target, (8, 8, 8))) > 0.97
    np.testing.assert_allclose(found.centroids[0], target, atol=0.3)
    assert found.scores.tolist() == pytest.approx([0.9])


@given(grids(ndim=3, min_side=1, max_side=6))
def test_the_patient_grid_has_the_same_voxels_with_axes_to_head_front_and_right(grid):
    turned = patient_grid(grid)
    mine, theirs = (np.sort(g.points().round(6).view([("x", "f8"), ("y", "f8"), ("z", "f8")]), axis=0)
                    for g in (grid, turned))  # fmt: skip
    np.testing.assert_allclose(mine.view("f8"), theirs.view("f8"), atol=1e-4)
    direction = turned.direction
    targets = np.array([[0, 0, -1.0], [0, -1, 0], [1, 0, 0]])
    # No other assignment of the axes is nearer to head, front and right.
    assert np.trace(targets.T @ direction) >= 1.0 - 1e-9
    assert patient_grid(turned) == turned


@pytest.mark.parametrize("shape", [(1, 40, 40), (13, 1, 29), (2, 60, 3), (1, 1, 1)])
def test_odd_shapes(shape):
    grid = make_grid(shape, (5.0, 1.0, 1.0))
    image, _ = ball_image(grid, grid.center, 4)
    found = segmenter(Toy(radius=6.0)).prepare(image).answer(Prompt.at(grid.center))
    truth = ellipsoid(grid, grid.center, (6, 6, 6))
    assert dice(found.masks[0].numpy(), truth) > 0.9
    segmenter(Toy(radius=6.0), options=EverythingOptions(pred_iou_thresh=0))(image)


def test_large_volumes_are_seen_cube_by_cube_and_every_cube_is_encoded_once():
    grid = make_grid((80, 90, 100), (1.5, 1.5, 1.5))
    image = image_of(np.zeros(grid.shape), grid, noise=10)  # no two cubes are alike
    model = Toy(radius=6.0)
    find = segmenter(model)
    near, far = grid.world_from_index([10, 12, 15]), grid.world_from_index([70, 80, 90])
    first = find.prepare(image).answer(Prompt.at(near))
    assert model.encoded == 1
    again = find.prepare(image).answer(Prompt.at(near + 1.0))
    assert model.encoded == 1
    assert not torch.equal(first.masks, again.masks)
    both = find.prepare(image).answer(Prompt.at(near, far))
    # Two cubes, the first of which is known; a third would lie between the points and hold neither.
    assert model.encoded == 2
    truth = ellipsoid(grid, near, (6, 6, 6)) | ellipsoid(grid, far, (6, 6, 6))
    assert dice(both.masks[0].numpy(), truth) > 0.95


def test_negative_points_come_last_and_only_where_they_are_seen():
    seen = []

    class Watch(Toy):
        def decode(self, embedding, *, points=None, labels=None, **other):
            seen.append(labels.tolist())
            return super().decode(embedding, points=points, labels=labels, **other)

    grid = make_grid((80, 90, 100), (1.5, 1.5, 1.5))
    image, _ = ball_image(grid, grid.center, 10)
    inside, near, far = (grid.world_from_index(i) for i in ([20, 20, 20], [22, 24, 20], [70, 80, 90]))
    segmenter(Watch(radius=6.0)).prepare(image).answer(Prompt(np.stack([near, far, inside]), np.array([0, 0, 1])))
    assert seen == [[[1, 0]]]


def test_a_box_is_asked_for_by_its_middle_and_cuts_the_answer():
    grid = make_grid((40, 44, 48), (1.0, 1.5, 1.2), rotation(3, 7))
    image, _ = ball_image(grid, grid.center, 10)
    corners = grid.world_from_index([[12, 15, 16], [22, 30, 36]])
    find = segmenter(Toy(radius=30.0, patch=64))
    found = find.prepare(image).answer(Prompt(np.zeros((0, 3)), np.zeros(0), box=corners))
    index = np.argwhere(found.masks[0].numpy())
    np.testing.assert_array_equal(index.min(0), [12, 15, 16])
    np.testing.assert_array_equal(index.max(0), [22, 30, 36])
    assert torch.equal(probabilities(found) > 0.5, found.masks)
    assert (
        found.note == "toy takes no boxes: it was asked for the middle of the box, and its answer was cut to the box"
    )
    # A point says more than the middle; the box still cuts.
    point = grid.world_from_index([14, 20, 20])
    small = segmenter(Toy(radius=5.0, patch=64)).prepare(image).answer(Prompt(point[None], np.ones(1), box=corners))
    box = np.zeros(grid.shape, dtype=bool)
    box[12:23, 15:31, 16:37] = True
    assert dice(small.masks[0].numpy(), ellipsoid(grid, point, (5, 5, 5)) & box) > 0.9
    assert small.note == "toy takes no boxes: its answer was cut to the box"
    assert find.prepare(image).answer(Prompt.at(point)).note == ""


def test_a_network_that_takes_boxes_is_shown_the_box_in_its_own_axes():
    seen = []

    class Boxes(Toy):
        def decode(self, embedding, *, points=None, labels=None, boxes=None, masks=None, multimask=True):
            seen.append((points, boxes, multimask))
            low, high = boxes[0].round().long()
            logits = torch.full((1, 1, *embedding.shape), -9.0)
            logits[(0, 0, *(slice(a, b + 1) for a, b in zip(low.tolist(), high.tolist(), strict=True)))] = 9.0
            return MaskLogits(logits, torch.ones(1, 1))

    model = Boxes(patch=None, spacing=1.5)
    model.card = replace(model.card, prompts=frozenset({"point", "box"}))
    grid = make_grid((20, 22, 24), (1.5, 1.5, 1.5), rotation(3, 4) @ axis_orders(3)[17])
    image, _ = ball_image(grid, grid.center, 6)
    corners = grid.world_from_index([[15, 3, 4], [5, 12, 20]])
    found = segmenter(model).prepare(image).answer(Prompt(np.zeros((0, 3)), np.zeros(0), box=corners))
    index = np.argwhere(found.masks[0].numpy())
    np.testing.assert_array_equal(index.min(0), [5, 3, 4])
    np.testing.assert_array_equal(index.max(0), [15, 12, 20])
    assert seen[0][0] is None and seen[0][2] is False
    assert found.note == ""


def test_everything_mode_finds_each_structure_once():
    grid = make_grid((30, 80, 84), (3.0, 1.0, 1.1), rotation(3, 3), (5, 6, 7))
    truths = [
        ellipsoid(grid, grid.world_from_index(middle), radii)
        for middle, radii in (([9, 25, 25], (12, 12, 12)), ([20, 55, 60], (14, 11, 12)), ([10, 60, 20], (10, 10, 10)))
    ]
    image = image_of(200.0 * np.any(truths, axis=0), grid, noise=2.0)
    model = Toy(patch=64)
    events = []
    rois = segmenter(model, points=600, max_voxels=60_000, progress=events.append)(image)
    assert len(rois) == 3
    assert rois.grid.size <= 60_000
    np.testing.assert_allclose(rois.grid.corners(), grid.corners(), atol=1e-6)
    on_grid = [ellipsoid(rois.grid, grid.world_from_index(m), r) for m, r in
               (([9, 25, 25], (12, 12, 12)), ([20, 55, 60], (14, 11, 12)), ([10, 60, 20], (10, 10, 10)))]  # fmt: skip
    for truth in on_grid:
        assert best_dice(rois.masks, truth) > 0.85
    fractions = [e.fraction for e in events]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    before = model.encoded
    segmenter(model)(image)
    assert model.encoded > before  # another cache


def test_candidates_and_prompts_share_embeddings_of_a_volume_that_fits_one_cube():
    grid = make_grid((30, 32, 34), (1.5, 1.5, 1.5))
    image, mask = ball_image(grid, grid.center, 12)
    model = Toy(patch=40)
    find = segmenter(model)
    assert isinstance(find.prepare(image), PromptableImage)
    assert best_dice(find(image).masks, mask) > 0.9
    found = find.prepare(image).answer(Prompt.at(grid.center))
    assert dice(found.masks[0].numpy(), mask) > 0.9
    assert model.encoded == 1


def test_limits_quality_and_empty_answers():
    grid = make_grid((30, 32, 34), (1.5, 1.5, 1.5))
    image, _ = ball_image(grid, grid.center, 12)
    assert len(segmenter(Toy(patch=40), limits=RegionFilter(max_fraction=0.01))(image)) == 0
    assert len(segmenter(Toy(patch=40), options=EverythingOptions(pred_iou_thresh=0.95))(image)) == 0
    corner = segmenter(Toy(patch=40)).prepare(image).answer(Prompt.at(grid.world_from_index([1, 1, 1])))
    assert len(corner) == 0 and corner.grid == grid
    assert len(segmenter(Toy(patch=40))(image_of(np.zeros(grid.shape), grid))) == 0


def test_a_network_without_spacing_gets_the_voxels_of_the_image():
    grid = make_grid((9, 31, 30), (4.0, 1.0, 1.2), rotation(3, 9))
    image, mask = ball_image(grid, grid.center, 11)
    model = Toy(patch=None, spacing=None)
    find = segmenter(model)
    assert find.prepare(image).volume.grid == grid
    found = find.prepare(image).answer(Prompt.at(grid.center))
    assert np.array_equal(found.masks[0].numpy(), mask)


def test_coarser_spacing_shows_the_network_more():
    grid = make_grid((80, 80, 80), (1.5, 1.5, 1.5))
    image, mask = ball_image(grid, grid.center, 30)
    find = segmenter(Toy(), spacing=6.0)
    assert find.prepare(image).volume.grid.shape == (20, 20, 20)
    assert dice(find.prepare(image).answer(Prompt.at(grid.center)).masks[0].numpy(), mask) > 0.93


def test_embeddings_survive_the_prepared_image():
    grid = make_grid((20, 20, 20), (1.5, 1.5, 1.5))
    images = [ball_image(grid, grid.center, r)[0] for r in (4, 6, 8)]
    model = Toy()
    find = segmenter(model)
    for image in (*images, *images):
        find.prepare(image).answer(Prompt.at(grid.center))
    assert model.encoded == 3


def test_bad_input_is_explained():
    grid = make_grid((20, 20, 20), (1.5, 1.5, 1.5))
    image, _ = ball_image(grid, grid.center, 4)
    find = segmenter(Toy())
    flat = make_grid((20, 20), (1.0, 1.0))
    with pytest.raises(GeometryError, match="toy takes 3D images, found 2D; choose a network for 2D images"):
        find(image_of(np.zeros((20, 20)), flat))
    with pytest.raises(InputError, match=r"\(900.0, 0.0, 0.0\) is outside the image"):
        find.prepare(image).answer(Prompt.at((900, 0, 0)))
    with pytest.raises(GeometryError, match="2D points does not fit a 3D image"):
        find.prepare(image).answer(Prompt.at((1, 1)))
    with pytest.raises(InputError, match="move them further apart"):
        find.prepare(image).answer(Prompt(np.stack([grid.center] * 2), np.array([1, 0])))
    with pytest.raises(InputError, match="box is empty"):
        find.prepare(image).answer(Prompt(np.zeros((0, 3)), np.zeros(0), box=np.stack([grid.center] * 2)))
    broken = image.with_data(image.data.clone().fill_(float("nan")))
    with pytest.raises(InputError, match="NaN or infinite"):
        find(broken)
    for options, words in (
        ({"spacing": 0.0}, "positive number of mm"),
        ({"window": (5.0, 0.0)}, "width must be a positive"),
        ({"window": "lug"}, "window 'lug' is unknown"),
        ({"points": 0}, "at least 1 point"),
        ({"similar": 0.0}, r"in \(0, 1\]"),
    ):
        with pytest.raises(InputError, match=words):
            segmenter(Toy(), **options)


def test_a_network_for_ct_refuses_other_images_unless_told_a_window():
    grid = make_grid((20, 20, 20), (1.5, 1.5, 1.5))
    image, _ = ball_image(grid, grid.center, 6)
    model = Toy()
    model.volume = VolumeInput(1.5, 24, (-1000.0, 1000.0))
    with pytest.raises(InputError, match="reads CT in Hounsfield units"):
        segmenter(model)(image)
    # The window of the user, level and width, is taken as it is, whatever the lowest value.
    assert len(segmenter(model, window=(120.0, 260.0)).prepare(image).answer(Prompt.at(grid.center))) == 1


def test_sam_med3d_end_to_end_from_a_file(tmp_path):
    path = sam_med3d(tmp_path)
    model = load(path)
    assert isinstance(model, SamMed3D)
    grid = make_grid((16, 35, 30), (2.5, 1.3, 1.4), rotation(3, 5))
    image, _ = ball_image(grid, grid.center, 12)
    find = segmenter(
        model,
        options=EverythingOptions(pred_iou_thresh=0),
        points=30,
        limits=RegionFilter(min_fraction=0, max_fraction=1),
    )
    prompt = Prompt.at(grid.center)
    found = find.prepare(image).answer(prompt)
    encoded = model.encoded
    assert torch.equal(find.prepare(image).answer(prompt).masks, found.masks)
    assert model.encoded == encoded
    # The same by hand: working grid, cube, network, and back.
    volume = find.prepare(image).volume
    cube = volume.grid.padded(
        [(32 - n) // 2 for n in volume.grid.shape], [32 - n - (32 - n) // 2 for n in volume.grid.shape]
    )
    embedding = model.encode(_at(volume.raster, volume.grid, cube, outside=0.0))
    place = torch.as_tensor(cube.index_from_world(grid.center), dtype=torch.float32)[None, None]
    answer = model.upscale(model.decode(embedding, points=place, labels=torch.ones(1, 1)).logits, embedding)
    expected = _at(answer[0], cube, grid, outside=-9.0)[0].numpy() > 0
    assert 0.02 < expected.mean() < 0.98
    assert dice(found.masks[0].numpy(), expected) > 0.999
    rois = find(image)
    assert len(rois) >= 1
    assert rois.scores.min() >= 0 and rois.scores.max() <= 1
    # By its path, with embeddings kept in a folder: the second run encodes nothing.
    for fresh in (True, False):
        segment = model_segmenter(path, cache_folder=tmp_path / "embeddings")
        assert torch.equal(segment.prepare(image).answer(prompt).masks, found.masks)
        assert segment.model.encoded == int(fresh)


@given(
    st.tuples(*[st.integers(1, 30)] * 3),
    st.sampled_from([7, 16, 24]),
    st.integers(0, 999),
)
def test_cubes_hold_all_points_and_cover_the_volume(shape, side, seed):
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32))
    volume = Volume(make_grid(shape), values, side)
    points = np.random.default_rng(seed).uniform(-0.5, np.array(shape) - 0.5, (5, 3))
    cubes = volume.cubes_around(points)
    assert np.any([volume.holds(c, points) for c in cubes], axis=0).all()
    seen = np.zeros(shape, dtype=bool)
    asked = 0
    everywhere = volume.grid.index_from_world(volume.grid.points())
    for offset, members in volume.tiles(everywhere):
        assert volume.holds(offset, members).all()
        asked += len(members)
        crop = volume.crop(offset)
        assert crop.shape == (1, side, side, side)
        first = np.maximum(0, -np.array(offset))
        start = np.maximum(0, np.array(offset))
        stop = np.minimum(np.array(shape), np.array(offset) + side)
        place = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        inner = tuple(slice(f, f + b - a) for f, a, b in zip(first, start, stop, strict=True))
        assert torch.equal(crop[0][inner], values[0][place])
        assert float(crop.abs().sum()) == pytest.approx(float(values[0][place].abs().sum()), rel=1e-4)
        seen[place] = True
    assert seen.all() and asked == len(everywhere)


def test_a_2d_network_is_none_for_volumes():
    class Flat(Toy):
        def __init__(self):
            super().__init__()
            del self.volume

    with pytest.raises(InputError, match="no network for volumes"):
        Model3DSegmenter(Flat())


def test_the_registered_name_asks_volumes_as_the_profile_and_the_options_say():
    model = Toy()
    assert model_segmenter(model, profile="fast").points == 64
    options = EverythingOptions(points=4, pred_iou_thresh=0.95)
    assert model_segmenter(model, options=options).points == 16
    grid = make_grid((30, 32, 34), (1.5, 1.5, 1.5))
    image, _ = ball_image(grid, grid.center, 12)
    cache = EmbeddingCache()
    counts = [
        len(model_segmenter(Toy(patch=40), options=EverythingOptions(pred_iou_thresh=t), cache=cache)(image))
        for t in (0.8, 0.95)
    ]
    assert counts == [1, 0]
    with pytest.raises(InputError, match="cuts no slices"):
        model_segmenter(model, axis=1)


def _at(data: torch.Tensor, grid: Grid, other: Grid, *, outside: float) -> torch.Tensor:
    """(1, *other) linearly interpolated values of a grid, `outside` beyond its voxels."""
    index = grid.index_from_world(other.points())
    inside = ((index >= -0.5 - 1e-9) & (index <= np.array(grid.shape) - 0.5 + 1e-9)).all(1)
    values = ndimage.map_coordinates(data[0].double().numpy(), index.T, order=1, mode="nearest")
    return torch.from_numpy(np.where(inside, values, outside).astype(np.float32).reshape(1, *other.shape))
