"""`prompt`: files in, region pairs, list and picture out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageColor
import pytest
import torch

from app.scenes import Scene, files_in
from models.tiny import sam_med3d
from roireg.app.console import Outcome, Session
from roireg.app.results import say_prompts
from roireg.core.errors import GeometryError, InputError, OutputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import Prompt, ROIPairs, ROISet
from roireg.io import PointSet, read_image, read_labels, read_pairs, write_labels, write_points
from roireg.jobs import PromptJob
from roireg.jobs.prompt_picture import INSIDE, REGION, draw_answers
from roireg.pipeline.prompts import PromptAnswer, PromptResult
from support import dice

OUTPUTS = {"overview.png", "pairs", "result.json"}


def centre(scene: Scene, side: str, label: int) -> np.ndarray:
    """World centre of a blob."""
    labels = read_labels(getattr(scene, f"{side}_labels"))
    return labels.grid.world_from_index(np.argwhere(labels.data[0].numpy() == label).mean(0))


def text(point) -> str:
    return ",".join(f"{v:.4f}" for v in point)


def job(scene: Scene, out: Path, **changes) -> PromptJob:
    """The images shifted a little: where they lie is guide enough, and fast."""
    return replace(PromptJob(fixed=scene.fixed, moving=scene.moving, out=out, guide="identity"), **changes)


def prompt_files(session: Session, job: PromptJob) -> Outcome:
    return say_prompts(session, job, session.run(job))


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_a_point_in_either_image_finds_the_blob_in_the_other(flat, tmp_path, side):
    outcome = prompt_files(Session(), job(flat, tmp_path / "out", point=[text(centre(flat, side, 2))], side=side))
    assert outcome.exit_code == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == OUTPUTS
    pairs = read_pairs(tmp_path / "out" / "pairs")
    for name, masks in (("fixed", pairs.fixed), ("moving", pairs.moving)):
        truth = read_labels(getattr(flat, f"{name}_labels")).data[0] == 2
        assert dice(masks.masks[0], truth) > 0.85
    stored = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    (entry,) = stored["prompts"]
    other = "moving" if side == "fixed" else "fixed"
    found = np.array(entry["found"]["points"]["mm"][0])
    assert np.linalg.norm(found - centre(flat, other, 2)) < 6
    assert entry["confidence"] == pairs.pairs[0].confidence
    assert entry["reason"] == "" and entry["pair"] == 0
    assert stored["in"] == side
    with PIL.Image.open(tmp_path / "out" / "overview.png") as picture:
        assert picture.size[0] > 600


def test_a_volume_takes_voxel_indices_or_mm(volume, tmp_path):
    point = centre(volume, "fixed", 2)
    index = read_image(volume.fixed).grid.index_from_world(point)[::-1]
    documents = [
        prompt_files(Session(), job(volume, tmp_path / unit, point=[text(where)], unit=unit)).document
        for unit, where in (("mm", point), ("px", index))
    ]
    given = [d["prompts"][0]["given"]["points"] for d in documents]
    np.testing.assert_allclose(given[0]["mm"], given[1]["mm"], atol=1e-3)
    np.testing.assert_allclose(given[0]["px"][0], index, atol=1e-3)
    assert documents[0]["prompts"][0]["confidence"] == pytest.approx(documents[1]["prompts"][0]["confidence"])


def test_points_with_labels_are_one_prompt_and_box_mask_and_file_are_more(flat, tmp_path):
    truth = read_labels(flat.fixed_labels)
    index = np.argwhere(truth.data[0].numpy() == 2)
    (top, left), (bottom, right) = index.min(0), index.max(0)
    mask = tmp_path / "mask.png"
    write_labels(mask, truth.with_data((truth.data == 1).int()))
    points = tmp_path / "points.csv"
    write_points(points, PointSet(np.stack([centre(flat, "fixed", k) for k in (1, 2)]), ("a", "b")))
    asked = job(
        flat,
        tmp_path / "out",
        point=[text(centre(flat, "fixed", 2)), "1,1"],
        label=[1, 0],
        box=f"{left},{top},{right},{bottom}",
        mask=mask,
        prompts=points,
    )
    document = prompt_files(Session(), asked).document
    assert [p["name"] for p in document["prompts"]] == ["1", "mask.png", "a", "b"]
    first = document["prompts"][0]["given"]
    assert first["labels"] == [1, 0] and first["box"]["px"] == [[left, top], [right, bottom]]
    assert read_pairs(tmp_path / "out" / "pairs").pairs[0].prompts[0].box is not None


@pytest.mark.usefixtures("cheap_presets")
def test_a_registration_from_the_pairs_is_written_beside_them(flat, tmp_path):
    asked = job(flat, tmp_path / "out", point=[text(centre(flat, "fixed", 2))], register=True)
    outcome = prompt_files(Session(), asked)
    assert "transform.h5" in files_in(tmp_path / "out" / "registration")
    assert outcome.document["registration"]["pairs"] == 1
    assert read_pairs(tmp_path / "out" / "registration" / "pairs").pairs[0].status == "accepted"


def test_exit_code_3_when_nothing_is_found_and_the_reason_is_written(flat, tmp_path):
    """The guide sends the prompt out of the other image."""
    asked = job(flat, tmp_path / "out", point=["50,40"], guide=str(_far_transform(tmp_path)))
    outcome = prompt_files(Session(), asked)
    assert outcome.exit_code == 3
    assert {p.name for p in (tmp_path / "out").iterdir()} == OUTPUTS - {"pairs"}
    (entry,) = outcome.document["prompts"]
    assert entry["pair"] is None and "outside" in entry["reason"] and entry["found"] is None


def _far_transform(folder: Path) -> Path:
    from roireg.core.transforms import Affine
    from roireg.io import write_transform

    path = folder / "far.tfm"
    write_transform(path, Affine.translation((30.0, 0.0)))
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ("nothing is asked", "--point")),
        ({"point": ["500,2"]}, ("fixed.png", "(500, 2)", "outside the image")),
        ({"point": ["1,2,3"]}, ("--point", "2 numbers")),
        ({"point": ["nan,3"]}, ("--point nan,3", "no finite number", "give numbers")),
        ({"box": "3,3,inf,9"}, ("--box 3,3,inf,9", "no finite number")),
        ({"point": ["9,9"], "box": "20,20,30,30"}, ("fixed.png", "(9, 9)", "outside the prompt box", "move one")),
        ({"point": ["9,9"], "segmenter": "model"}, ("segmenter model", "network", "--model")),
        ({"point": ["9,9"], "features": "model"}, ("features model", "network", "--model")),
        ({"point": ["9,9", "9,9"], "label": [1, 0]}, ("(9, 9)", "both inside", "outside", "remove one")),
        ({"point": ["9,9"], "label": [0]}, ("--label", "at least one point inside")),
        ({"point": ["9,9"], "label": [1, 0]}, ("--label", "1 points and 2 labels")),
        ({"label": [1]}, ("--label", "give points")),
        ({"point": ["9,9"], "label": [7]}, ("1 (inside) or 0 (outside)", "7")),
        ({"box": "3,3,3,9"}, ("box", "no area")),
        ({"box": "3,3,9"}, ("--box", "4 or 6 numbers")),
        ({"box": "300,3,310,9"}, ("box", "outside the image")),
        ({"point": ["9,9"], "side": "left"}, ("--in", "fixed or moving", "left")),
        ({"point": ["9,9"], "unit": "cm"}, ("--unit", "px or mm", "cm")),
        ({"point": ["9,9"], "guide": "there"}, ("--guide", "auto", "there")),
        ({"point": ["9,9"], "segmenter": "nothing"}, ("nothing", "hierarchy")),
        ({"point": ["9,9"], "features": "nothing"}, ("nothing", "intensity")),
        ({"point": ["9,9"], "model": "no-such-network"}, ("no-such-network",)),
        ({"point": ["9,9"], "model": "sam-vit-base", "segmenter": "model"}, ("--model", "--segmenter", "give one")),
        ({"point": ["9,9"], "preset": "best"}, ("best", "promptreg")),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(flat, tmp_path, changes, words):
    with pytest.raises(InputError) as caught:
        prompt_files(Session(), job(flat, tmp_path / "new" / "out", **changes))
    message = str(caught.value)
    assert not [w for w in words if w not in message], message
    assert "\n" not in message
    assert files_in(tmp_path) == set()


def test_a_unit_without_coordinates_is_refused(flat, tmp_path):
    points = tmp_path / "points.csv"
    write_points(points, PointSet(np.ones((1, 2))))
    for given in ({"mask": flat.fixed_labels}, {"prompts": points}):
        with pytest.raises(InputError, match="--unit is of --point and --box, found px with neither"):
            prompt_files(Session(), job(flat, tmp_path / "out", unit="px", **given))
    assert not (tmp_path / "out").exists()


def test_a_box_beyond_the_border_is_asked_for_as_far_as_it_reaches(flat, tmp_path):
    document = prompt_files(Session(), job(flat, tmp_path / "out", box="40,30,90,95")).document
    (entry,) = document["prompts"]
    assert entry["given"]["box"]["px"] == [[40, 30], [55.5, 47.5]]
    assert "outside" not in entry["reason"]


def test_published_settings_abstain(flat, tmp_path):
    asked = job(flat, tmp_path / "out", point=["50,4"], preset="promptreg", guide=None, features="intensity")
    outcome = prompt_files(Session(), asked)
    (entry,) = outcome.document["prompts"]
    assert outcome.exit_code == 3
    assert entry["pair"] is None and entry["confidence"] < 0.45 and entry["reason"]
    # The name of the file is enough to tell the images apart.
    assert str(flat.folder) not in entry["reason"]


def test_a_3d_network_is_asked_for_boxes_in_its_own_way_and_that_is_said(volume, flat, tmp_path, capsys):
    model = str(sam_med3d(tmp_path))
    asked = job(volume, tmp_path / "out", box="3,3,2,12,14,9", unit="px", model=model, features="intensity")
    document = prompt_files(Session(), asked).document
    (entry,) = document["prompts"]
    (note,) = entry["notes"]
    assert "takes no boxes" in note and "middle of the box" in note and "cut to the box" in note
    assert capsys.readouterr().err.count(f"prompt 1: {note}") == 1
    pointed = replace(asked, point=["8,8,5"], box=None, out=tmp_path / "point")
    assert prompt_files(Session(), pointed).document["prompts"][0]["notes"] == []
    with pytest.raises(GeometryError, match=r"fixed\.png.*takes 3D images, found 2D"):
        prompt_files(Session(), job(flat, tmp_path / "flat", point=["9,9"], model=model))
    assert not (tmp_path / "flat").exists()


def test_the_features_of_a_network_may_be_named(volume, tmp_path):
    model = str(sam_med3d(tmp_path))
    documents = [
        prompt_files(
            Session(), job(volume, tmp_path / str(k), point=["8,8,5"], unit="px", model=model, features=name)
        ).document
        for k, name in enumerate((None, "model"))
    ]
    assert documents[0]["prompts"][0]["confidence"] == documents[1]["prompts"][0]["confidence"]


def test_outline_and_box_are_both_seen_where_they_coincide(tmp_path):
    grid = Grid.pixels((40, 40))
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[0, 10:30, 8:33] = True
    image = Image(torch.zeros(1, 40, 40), grid)
    box = Prompt(np.zeros((0, 2)), np.zeros(0), [[7.5, 9.5], [32.5, 29.5]])
    region = ROISet(mask, grid)
    seen = []
    for regions in (region, ROISet.empty(grid)):
        answer = PromptAnswer("fixed", box, None, None, 0.0, "", regions, None, 0.0)
        empty = ROIPairs(ROISet.empty(grid), ROISet.empty(grid), ())
        draw_answers(tmp_path / "a.png", PromptResult(empty, (answer,), {}), image, image, ["1"])
        pixels = np.asarray(PIL.Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
        left = pixels[:, : pixels.shape[1] // 2]
        seen.append(
            {ink: int((np.abs(left - PIL.ImageColor.getrgb(ink)).max(-1) < 40).sum()) for ink in (INSIDE, REGION)}
        )
    with_region, alone = seen
    assert alone[REGION] == 0 and with_region[REGION] > 500
    assert with_region[INSIDE] > 0.3 * alone[INSIDE] > 0


def test_files_that_do_not_fit_are_named(flat, volume, tmp_path):
    deep = tmp_path / "deep.csv"
    write_points(deep, PointSet(np.ones((1, 3))))
    with pytest.raises(InputError, match=r"deep\.csv.*3 coordinates.*2D"):
        prompt_files(Session(), job(flat, tmp_path / "out", prompts=deep))
    with pytest.raises(GeometryError, match="mask that prompts"):
        prompt_files(Session(), job(flat, tmp_path / "out", mask=volume.fixed_labels))
    with pytest.raises(GeometryError, match="2D"):
        prompt_files(Session(), replace(job(flat, tmp_path / "out", point=["9,9"]), moving=volume.moving))
    empty = tmp_path / "empty.png"
    labels = read_labels(flat.fixed_labels)
    write_labels(empty, Image(labels.data * 0, labels.grid))
    with pytest.raises(InputError, match=r"empty\.png.*empty"):
        prompt_files(Session(), job(flat, tmp_path / "out", mask=empty))
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken"):
        prompt_files(Session(), job(flat, tmp_path / "taken", point=["9,9"]))
    assert not (tmp_path / "out").exists()
