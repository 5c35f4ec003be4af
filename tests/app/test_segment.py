"""`segment`."""

from __future__ import annotations

import json

import numpy as np
import PIL.Image

from app.scenes import answer, fails, files_in, run
from models.tiny import sam_med3d
from roireg.io import read_image, read_labels
from support import dice


def test_regions_cover_the_structures_and_the_list_agrees_with_the_maps(flat, tmp_path):
    document = answer("segment", flat.fixed, "-o", tmp_path / "r.png")
    truth = read_labels(flat.fixed_labels).data[0]
    layers = {name: read_labels(tmp_path / name) for name in document["layers"]}
    assert all(layer.grid.is_close(read_image(flat.fixed).grid) for layer in layers.values())
    masks = [layers[r["layer"]].data[0] == r["label"] for r in document["regions"]]
    for label in (1, 2, 3):
        assert max(dice(m, truth == label) for m in masks) > 0.9
    for mask, region in zip(masks, document["regions"], strict=True):
        assert int(mask.sum()) == round(region["volume"])
        centre = np.argwhere(mask.numpy()).mean(0)[::-1]
        np.testing.assert_allclose(centre, region["centroid"], atol=1e-6)
    stability = [r["stability"] for r in document["regions"]]
    assert stability == sorted(stability, reverse=True)
    stored = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert stored["regions"] == document["regions"]
    assert files_in(tmp_path) == {*document["layers"], "r.json", "r_overview.png"}
    with PIL.Image.open(tmp_path / "r_overview.png") as picture:
        assert picture.size[0] > 300


def test_a_point_in_a_volume_gives_the_structure_around_it(volume, tmp_path):
    image, truth = read_image(volume.fixed), read_labels(volume.fixed_labels).data[0]
    centre = image.grid.world_from_index(np.argwhere(truth.numpy() == 2).mean(0))
    place = ",".join(f"{v:.4f}" for v in centre)
    result = run("segment", volume.fixed, "--point", place, "-o", tmp_path / "r.nii.gz")
    assert result.exit_code == 0
    assert "regions for the prompt" in result.stdout
    assert dice(read_labels(tmp_path / "r.nii.gz").data[0] == 1, truth == 2) > 0.8


def test_a_negative_point_is_honoured(flat, tmp_path):
    points = ("--point", "17,16", "--point", "2,2", "--label", 1, "--label", 0)
    answer("segment", flat.fixed, *points, "-o", tmp_path / "r.png")
    found = read_labels(tmp_path / "r.png").data[0]
    assert found[16, 17] == 1
    assert found[2, 2] == 0


def test_a_box_gives_the_structure_in_it(flat, tmp_path):
    truth = read_labels(flat.fixed_labels).data[0] == 2
    (top, left), (bottom, right) = np.argwhere(truth.numpy()).min(0), np.argwhere(truth.numpy()).max(0)
    answer("segment", flat.fixed, "--box", f"{left},{top},{right},{bottom}", "-o", tmp_path / "r.png")
    assert dice(read_labels(tmp_path / "r.png").data[0] == 1, truth) > 0.9


def test_a_network_for_volumes_says_how_long_it_takes_and_what_it_made_of_a_box(volume, tmp_path):
    network = sam_med3d(tmp_path)
    result = run("segment", volume.fixed, "--model", network, "--profile", "fast", "-o", tmp_path / "all.nii.gz")
    assert result.exit_code == 0, result.output
    assert "note: finding regions: the network takes about" in result.stderr
    low, high = read_image(volume.fixed).grid.corners()[[0, -1]]
    box = ",".join(f"{v:.3f}" for v in np.concatenate([0.8 * low + 0.2 * high, 0.2 * low + 0.8 * high]))
    result = run("segment", volume.fixed, "--model", network, "--box", box, "-o", tmp_path / "box.nii.gz")
    assert result.exit_code == 0, result.output
    assert "takes no boxes" in result.stderr and "takes about" not in result.stderr


def test_mistakes_are_named_and_write_nothing(flat, volume, tmp_path):
    out = tmp_path / "r.nii.gz"
    fails("segment", flat.fixed, "--point", "1,2,3", "-o", out, words=("--point", "2 numbers", "'1,2,3'"))
    fails("segment", flat.fixed, "--point", "500,2", "-o", out, words=("fixed.png", "outside"))
    apart = ("--point", "5,5", "--box", "20,20,30,30")
    fails("segment", flat.fixed, *apart, "-o", out, words=("fixed.png", "(5, 5)", "box"))
    fails(
        "segment", flat.fixed, "--point", "1,2", "--label", 1, "--label", 0, "-o", out, words=("--label", "2 labels")
    )
    fails("segment", volume.fixed, "-o", tmp_path / "r.png", words=("r.png", ".nii.gz"))
    fails("segment", flat.fixed, "-o", out, "--min-size", 0.6, words=("0.6", "0.5"))
    assert files_in(tmp_path) == set()
