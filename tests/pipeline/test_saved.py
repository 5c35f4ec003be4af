"""A result folder read back says what the result said."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import roireg
from pipeline.cases import quick
from roireg.core.errors import HeaderWarning, InputError


@pytest.fixture(scope="module")
def saved(flat_result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "out"
    flat_result.save(folder, only=["transform", "inverse", "warped", "pairs", "result"])
    return folder


def test_a_result_comes_back(flat_result, saved):
    loaded = roireg.load(str(saved))
    points = flat_result.fixed.grid.corners()
    np.testing.assert_allclose(loaded.map_points(points.tolist()), flat_result.map_points(points), atol=1e-3)
    np.testing.assert_allclose(loaded.inverse.map_points(points), flat_result.inverse.map_points(points), atol=1e-3)
    assert torch.equal(loaded.warped.data, flat_result.warped.data.float())
    assert len(loaded.pairs) == len(flat_result.pairs)
    assert (loaded.verdict, loaded.reasons) == (flat_result.verdict, flat_result.reasons)
    assert loaded.metrics["ncc"] == flat_result.metrics["ncc"]
    assert loaded.provenance["seed"] == flat_result.provenance["seed"]
    assert loaded.verdict in loaded._repr_html_() and repr(loaded).startswith("SavedRegistration(")


def test_what_was_not_saved_is_said_by_name(flat_result, tmp_path):
    flat_result.save(tmp_path / "out", only=["transform"])
    loaded = roireg.load(tmp_path / "out")
    points = flat_result.fixed.grid.center[None]
    there = loaded.inverse.map_points(loaded.map_points(points))
    assert np.abs(there - points).max() < 0.3
    with pytest.raises(InputError, match="saved without warped"):
        _ = loaded.warped
    with pytest.raises(InputError, match="without its pairs"):
        _ = loaded.pairs


def test_a_file_changed_since_is_told(flat_result, tmp_path):
    flat_result.save(tmp_path / "out", only=["transform"])
    roireg.register(flat_result.moving, flat_result.fixed, config=quick(stages=())).save(tmp_path / "other")
    (tmp_path / "out/transform.h5").write_bytes((tmp_path / "other/transform.h5").read_bytes())
    with pytest.warns(HeaderWarning, match="changed since"):
        roireg.load(tmp_path / "out").map_points([[1.0, 2.0]])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "found no result"),
        ({"prompts": []}, "with a verdict"),
        ([1], "with a verdict"),
        ({"verdict": "ok", "complete": False, "written": {}}, "was stopped"),
    ],
    ids=["nothing", "prompts", "list", "stopped"],
)
def test_other_folders_are_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=words):
        roireg.load(tmp_path)
