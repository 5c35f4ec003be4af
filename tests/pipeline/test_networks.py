"""Networks of every architecture, tiny and random, through the whole: segment, prompt, match, register."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import roireg
from models.tiny import KINDS, sam_med3d, saved, vista3d
from pipeline.cases import quick
from roireg.core.errors import GeometryError, InputError
from roireg.core.image import Image
from roireg.core.progress import silent
from roireg.core.rois import Prompt
from roireg.models.cache import EmbeddingCache
from roireg.models.registry import load
from roireg.pipeline import tools
from roireg.pipeline.sections import NetworkConfig
from roireg.pipeline.tools import Tools, expected_time
from roireg.segment.model3d import Model3DSegmenter
from roireg.synth import as_raster, make_pair

CPU = torch.device("cpu")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Keys of what is encoded; at the end none may occur twice, and no network may have encoded anything else."""
    keys: list[str] = []
    loaded = []
    save, usual = EmbeddingCache._save, tools.load

    def remembering(self, key, embedding):
        keys.append(key)
        save(self, key, embedding)

    def counted(*arguments, **more):
        loaded.append(usual(*arguments, **more))
        return loaded[-1]

    monkeypatch.setattr(EmbeddingCache, "_save", remembering)
    monkeypatch.setattr(tools, "load", counted)
    yield keys
    assert keys and len(set(keys)) == len(keys)
    assert sum(model.encoded for model in loaded) == len(keys)


def settings(path: Path | str, folder: Path, points: int = 3, **more) -> roireg.Config:
    # Random masks are of any size, and a random network is sure of none.
    config = quick(
        network={"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
        segment={"min_fraction": 0.0, "max_fraction": 1.0},
        stages=("affine", "velocity"),
        options={"velocity": {"levels": 1, "iterations": (3,)}},
        **more,
    )
    return config.with_network(path, profile="full", points=points, cache=folder / "cache")


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_segments_prompts_matches_and_registers(kind, flat, tmp_path, encoded):
    config = settings(saved(kind, tmp_path), tmp_path, match={"threshold": -1.0, "geometric": False})
    result = roireg.register(flat.fixed, flat.moving, config=config)
    assert len(result.pairs.moving) and len(result.pairs.fixed) and len(result.pairs)
    assert result.provenance["model"]["key"] and result.provenance["settings"]["network"]["points"] == 3
    assert len(encoded) == 2

    parts = Tools.of(config, CPU, silent)
    session = roireg.prompt_session(
        flat.fixed, flat.moving, segmenter=parts.segmenter, features=parts.extractor, guide=flat.transform
    )
    (answer,) = session.answer(Prompt.at(flat.fixed.grid.center)).answers
    assert len(answer.regions) == 1 and answer.found is not None
    # The second network reads from the folder what the first one wrote.
    assert len(encoded) == 2


def test_a_2d_network_takes_volumes_slice_by_slice(tmp_path, encoded):
    pair = make_pair(3, shape=(4, 24, 28), seed=1)
    config = settings(saved("sam", tmp_path), tmp_path, points=2)
    result = roireg.register(pair.fixed, pair.moving, config=config, prompts=Prompt.at(pair.fixed.grid.center))
    assert len(result.pairs.moving) and result.pairs.moving.grid.ndim == 3
    assert len(encoded) == pair.fixed.grid.shape[0] + pair.moving.grid.shape[0]


def test_slices_are_matched_with_a_network_too(tmp_path, encoded):
    pair = make_pair(3, shape=(3, 24, 28), seed=1)
    slices = {"slices": True, "similarity": "cosine", "geometric": False, "threshold": -1.0}
    config = settings(saved("sam", tmp_path), tmp_path, points=2, match=slices)
    result = roireg.register(pair.fixed, pair.moving, config=config)
    assert {p.source for p in result.pairs.pairs} == {"slices"}
    assert len(encoded) == 6


@pytest.fixture
def cube(monkeypatch: pytest.MonkeyPatch) -> None:
    """VISTA3D sees 32 voxels per side instead of 128, which take a minute."""

    def smaller(model, **more):
        return load(model, **more, input_size=32 if str(model).endswith("model.pt") else None)

    monkeypatch.setattr(tools, "load", smaller)


@pytest.fixture(params=["sam-med3d", "vista3d", "nninteractive"])
def volume_network(request, tmp_path, cube) -> Iterator[tuple[str, str]]:
    """What names a network for volumes, and the features that regions are compared by."""
    if request.param == "sam-med3d":
        yield str(sam_med3d(tmp_path)), "model"
    elif request.param == "vista3d":
        pytest.importorskip("monai.networks.nets", reason="needs monai")
        yield str(vista3d(tmp_path)), "model"
    else:
        server = pytest.importorskip("models.nninteractive_server")
        with server.serving() as running:
            yield f"nninteractive={running.address}", "intensity"


def test_every_3d_network_segments_prompts_matches_and_registers(volume_network, tmp_path, encoded):
    name, features = volume_network
    # Intensities of a CT, which VISTA3D insists on.
    made = make_pair(3, shape=(12, 24, 28), spacing=(3.0, 3.0, 3.0), seed=1)
    fixed, moving = (Image(image.data * 8 - 1100, image.grid) for image in (made.fixed, made.moving))
    loose = {"threshold": -1.0, "geometric": False}
    config = settings(name, tmp_path, match=loose)
    config = config.model_copy(update={"match": config.match.model_copy(update={"features": features})})
    parts = Tools.of(config, CPU, silent)
    assert isinstance(parts.segmenter, Model3DSegmenter) and parts.segmenter.points == 9
    assert re.fullmatch(r"the network takes about \d+ (s|min)", expected_time(parts.segmenter, fixed, moving))

    prompt = Prompt.at(fixed.grid.center)
    result = roireg.register(fixed, moving, config=config, prompts=prompt)
    assert len(result.pairs.moving) and len(result.pairs.fixed) and len(result.pairs)
    assert result.provenance["model"]["name"] == parts.network.model.card.name
    before = len(encoded)
    session = roireg.prompt_session(
        fixed, moving, segmenter=parts.segmenter, features=parts.extractor, guide=made.transform
    )
    (answer,) = session.answer(prompt).answers
    assert len(answer.regions) == 1 and answer.found is not None
    # The second network reads from the folder what the first one wrote.
    assert len(encoded) == before


def test_a_3d_network_takes_no_2d_images(tmp_path, flat):
    with pytest.raises(GeometryError, match="takes 3D images, found 2D"):
        roireg.register(flat.fixed, flat.moving, config=settings(sam_med3d(tmp_path), tmp_path))


def test_the_time_a_network_needs_is_told_before_it_begins(flat, tmp_path, encoded):
    config = settings(saved("sam", tmp_path), tmp_path)
    events = []
    roireg.register(flat.fixed, flat.moving, config=config, progress=events.append)
    told = [e for e in events if e.stage == "finding regions" and e.detail]
    assert [e.detail for e in told] == ["the network takes about 1 s"]
    assert events.index(told[0]) < next(i for i, e in enumerate(events) if e.stage == "segmenting everything")


def test_what_a_network_is_shown_is_what_its_window_says(tmp_path):
    path = saved("sam", tmp_path)
    pair = make_pair(2, shape=(24, 28), seed=1)
    parts = Tools.of(settings(path, tmp_path).with_network(path, window="lung"), CPU, silent)
    assert parts.extractor.window == "lung"
    assert parts.segmenter.segmenter.window == "lung"
    assert parts.segmenter.prepare(pair.fixed).raster.shape[1:] == pair.fixed.grid.shape


def test_settings_say_which_masks_of_a_network_are_kept_and_how_volumes_are_cut(tmp_path):
    path = saved("sam", tmp_path)

    def made(config):
        return Tools.of(config.with_network(path, profile="full"), CPU, silent).segmenter

    options = made(roireg.Config()).segmenter.options
    assert (options.pred_iou_thresh, options.stability_score_thresh, options.box_nms_thresh) == (None, 0.95, 0.7)
    # Published for SAMReg.
    options = made(roireg.preset("samreg")).segmenter.options
    assert (options.pred_iou_thresh, options.stability_score_thresh, options.box_nms_thresh) == (0.9, 0.9, 0.7)
    chosen = {
        "pred_iou_thresh": 0.5,
        "stability_score_thresh": 0.6,
        "box_nms_thresh": 0.8,
        "crop_layers": 1,
        "slice_axis": 2,
    }
    found = made(roireg.Config.model_validate({"network": chosen}))
    assert found.axis == 2
    assert {name: getattr(found.segmenter.options, name) for name in list(chosen)[:-1]} == {
        name: value for name, value in chosen.items() if name != "slice_axis"
    }


def test_mistakes_suggest_the_nearest_names(flat, tmp_path):
    config = roireg.Config()
    for arguments, words in (
        ({"profile": "fats"}, "profile 'fats' is unknown; did you mean fast"),
        ({"window": "lugn"}, "window 'lugn' is unknown; did you mean lung"),
        ({"window": "q"}, "use one of abdomen"),
        ({"points": 0}, "1 point per side or more, found 0"),
    ):
        with pytest.raises(InputError, match=words):
            config.with_network("sam-vit-base", **arguments)
    with pytest.raises(InputError, match="did you mean sam-vit-base"):
        roireg.register(flat.fixed, flat.moving, config=config.with_network("sam-vit-bas"))
    with pytest.raises(InputError, match="answers no prompts"):
        roireg.register(flat.fixed, flat.moving, config=config.with_network(saved("dinov2", tmp_path)))
    alone = config.model_copy(update={"match": config.match.model_copy(update={"features": "model"})})
    with pytest.raises(InputError, match="no network is named"):
        roireg.register(flat.fixed, flat.moving, config=alone)


def test_a_network_that_has_no_features_says_what_to_use(tmp_path):
    path = saved("sam", tmp_path)
    network = tools.Network.load(NetworkConfig(model=str(path)), CPU, silent)

    class Blind:
        card = network.model.card

    with pytest.raises(InputError, match=r"gives no features.*--features intensity"):
        tools.Network(Blind(), network.settings, network.cache).extractor()


def test_the_embedded_stages_have_no_network(flat):
    parts = Tools.of(roireg.Config(), CPU, silent)
    assert parts.network is None
    assert expected_time(parts.segmenter, as_raster(make_pair(2, shape=(20, 24))).fixed) == ""
