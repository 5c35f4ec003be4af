"""ALIKE: a tiny random one saved and loaded as its authors do, and the real ones where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.seeds import generator
from roireg.core.transforms import Affine
from roireg.core.warp import resample
from roireg.features import make_extractor
from roireg.fit import Search
from roireg.io import read_image, read_points, weights
from roireg.match import keypoint_maps, network_points
from roireg.match.moments import map_projective
from roireg.models import KeyPointModel, load
from roireg.models.alike import AlikeNet, peaks

SHARED = Path(__file__).resolve().parents[4] / "shared"
SIDE = 192


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> tuple[AlikeNet, Path]:
    torch.manual_seed(0)
    network = AlikeNet((8, 8, 8, 8), 32).train()
    with torch.no_grad():
        for _ in range(20):  # Running means and variances that are not those of a new network.
            network(torch.rand(1, 3, 64, 64))
        for coarse in (network.conv3, network.conv4):  # Coarse cells do not move with the image.
            coarse.weight *= 0.1
    path = tmp_path_factory.mktemp("alike") / "points.pth"
    torch.save(network.state_dict(), path)
    return network.eval(), path


def texture(*shape: int, seed: int = 0) -> torch.Tensor:
    data = np.random.default_rng(seed).uniform(0, 255, (1, *(n // 4 for n in shape)))
    return torch.from_numpy(data.astype(np.float32)).repeat_interleave(4, 1).repeat_interleave(4, 2)


def test_descriptors_are_those_of_the_layers_one_by_one(checkpoint):
    network, path = checkpoint
    model = load(path, "features", input_size=64)
    raster = texture(64, 64)
    parts, x = [], raster.expand(3, 64, 64)[None] / 255
    with torch.no_grad():
        for k, (pool, stride) in enumerate(((1, 1), (2, 2), (4, 8), (4, 32)), start=1):
            block = getattr(network, f"block{k}")
            pooled = F.max_pool2d(x, pool)
            inner = block.bn2(block.conv2(block.bn1(block.conv1(pooled)).relu()))
            x = (inner + (0 if k == 1 else block.downsample(pooled))).relu()
            seen = getattr(network, f"conv{k}")(x).relu()
            parts.append(seen if k == 1 else F.interpolate(seen, (64, 64), mode="bilinear", align_corners=True))
            assert seen.shape[-1] == 64 // stride
            torch.testing.assert_close(model.encode_dense(raster, layer=k - 1).tensors["image"], x)
        expected = network.convhead2(torch.cat(parts, 1))[:, :32]
    embedding = model.encode_dense(raster)
    torch.testing.assert_close(embedding.tensors["image"], expected / expected.norm(dim=1, keepdim=True))
    assert embedding.covered == (64, 64) and model.card.weights_licence == "unknown"
    with pytest.raises(InputError, match="blocks 0 to 3, not 4"):
        model.encode_dense(raster, layer=4)


def test_peaks_are_where_the_scores_are_highest_to_a_part_of_a_pixel():
    truth = torch.tensor([[10.3, 20.8], [30.0, 7.6], [22.4, 33.1]])
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(44.0), indexing="ij")
    heights = (0.9, 0.7, 0.5)
    scores = sum(h * torch.exp(-((y - p[0]) ** 2 + (x - p[1]) ** 2) / 4) for h, p in zip(heights, truth, strict=True))
    places, values = peaks(scores, count=10)
    assert len(places) == 3 and (values[:-1] >= values[1:]).all()
    assert (places - truth).abs().max() < 0.3
    assert len(peaks(scores, count=2)[0]) == 2
    scores[0, 0] = 1.0  # at the border
    assert len(peaks(scores, count=10)[0]) == 3


def test_key_points_find_a_translation_and_nothing_in_a_blank_image(checkpoint):
    model = load(checkpoint[1], "features", input_size=SIDE)
    assert isinstance(model, KeyPointModel)
    grid = Grid.from_itk((SIDE, 160), (0.5, 0.5), (3.0, 4.0), np.eye(2))
    whole = texture(160 + 32, SIDE + 32)
    fixed = Image(whole[:, 32:, :-32], grid, name="fixed")
    moving = Image(whole[:, :-32, 32:], grid, name="moving")
    detector = network_points(model, count=400)
    maps = keypoint_maps(fixed, moving, rng=generator(0, stream="test"), detector=detector)
    truth = Affine.translation((-16.0, 16.0))
    assert maps[1].decisive
    assert np.abs(maps[1].affine.map_points(grid.corners()) - truth.map_points(grid.corners())).max() < 0.5
    left = Image((torch.arange(SIDE) < 90).float().expand(1, 160, SIDE), grid, name="mask")
    masked = keypoint_maps(fixed, moving, rng=generator(0, stream="test"), fixed_mask=left, detector=detector)
    assert 6 <= masked[1].matched < maps[1].matched
    blank = fixed.with_data(torch.full_like(fixed.data, 7.0))
    assert keypoint_maps(fixed, blank, rng=generator(0, stream="test"), detector=detector) == []


def test_features_go_by_the_name_of_a_network_and_are_as_coarse_as_asked(checkpoint, tmp_path, monkeypatch):
    path = checkpoint[1]
    extractor = make_extractor(str(path))
    assert make_extractor(str(path)) is extractor  # levels of a fit do not load it again
    image = Image(texture(64, 96), Grid.pixels((64, 96)), name="photo")
    fine = extractor(image, image.grid)
    coarse = extractor(image, image.grid.with_spacing(4.0))
    assert coarse.grid.size * 100 < fine.grid.size * 8 and max(coarse.grid.spacing) <= 4
    mean = resample(fine, coarse.grid).data
    assert (mean - coarse.data).abs().mean() < 0.06 * coarse.data.abs().mean()
    monkeypatch.setenv("ROIREG_MODELS", str(tmp_path))
    (tmp_path / "alike-t.pth").write_bytes(path.read_bytes())
    assert make_extractor("alike-t").model.card.name == "alike-t"
    with pytest.raises(InputError, match="or a network with features"):
        make_extractor("nothing")


def test_a_network_without_key_points_is_refused_as_a_source_of_them():
    search = Search(key_point_model="embedding-2d")
    with pytest.raises(InputError, match="finds no key points; use alike-t"):
        search._detectors(2)
    assert len(search._detectors(3)) == 1


@pytest.mark.data
def test_the_published_weights_are_the_cards_models_and_find_a_wall_again():
    folder, data = SHARED / "models" / "alike", SHARED / "data" / "graf"
    if not (folder.is_dir() and data.is_dir()):
        pytest.skip("needs the trained networks in ../shared/models and the evaluation data")
    for name in ("alike-t", "alike-n"):
        path = folder / f"{name}.pth"
        model = load(path, "features")
        assert model.card.name == name and weights.weights_digest(path) == model.card.sha256
        assert model.report.missing == model.report.unexpected == ()
    fixed, moving = (read_image(data / f"graf{k}.png").gray() for k in (1, 3))
    points = [read_points(data / f"graf{k}_points.csv").points for k in (1, 3)]
    maps = keypoint_maps(
        fixed,
        moving,
        rng=generator(0, stream="test"),
        detector=network_points(load(folder / "alike-t.pth", "features")),
    )
    best = maps[-1]
    assert best.perspective is not None and best.decisive and best.agreeing > 150
    assert np.linalg.norm(map_projective(best.perspective, points[0]) - points[1], axis=1).mean() < 3
