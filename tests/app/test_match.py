"""`match`: files in, region pairs, list and picture out; no transform."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import roireg
from app.scenes import Scene, answer, fails, run
from roireg.io import read_pairs
from roireg.jobs import MatchJob


def job(scene: Scene, out: Path, settings: Path, **changes) -> MatchJob:
    return replace(MatchJob(fixed=scene.fixed, moving=scene.moving, out=out, config=settings), **changes)


@pytest.fixture(scope="module")
def matched(flat: Scene, settings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("match") / "out"
    job(flat, out, settings).run()
    return out


def test_pairs_lie_where_the_truth_says_and_no_transform_is_written(flat, matched):
    assert {p.name for p in matched.iterdir()} == {"overview.png", "pairs", "result.json"}
    pairs = read_pairs(matched)
    assert len(pairs) >= 4
    apart = pairs.moving_masks().centroids - pairs.fixed_masks().centroids - flat.offset
    likely = np.argsort([p.probability for p in pairs.pairs])[::-1]
    error = np.linalg.norm(apart, axis=1)[likely]
    assert error[:3].max() < 1 and error[: len(error) // 2].mean() < error[len(error) // 2 :].mean()
    assert np.asarray(PIL.Image.open(matched / "overview.png")).std() > 10


def test_the_best_pairs_and_the_similar_ones(flat, matched, tmp_path, settings):
    every = read_pairs(matched)
    best = job(flat, tmp_path / "best", settings, top=2).run().value
    assert [(p.moving, p.fixed) for p in best.pairs] == [(p.moving, p.fixed) for p in every.pairs[:2]]
    limit = float(np.median(every.similarity))
    similar = job(flat, tmp_path / "similar", settings, epsilon=limit).run().value
    assert 0 < len(similar) < len(every) and similar.similarity.min() > limit


def test_one_to_many_reaches_the_pairing_and_pulls_no_region_to_two_places(flat, tmp_path, settings):
    many = job(flat, tmp_path / "many", settings, one_to_many=True).run().value
    written = json.loads((tmp_path / "many" / "result.json").read_text(encoding="utf-8"))
    assert written["settings"]["match"]["assignment"] == "many"
    for side in ("moving", "fixed"):
        used = [getattr(p, side) for p in many.pairs]
        assert len(used) == len(set(used)) > 0


def test_corrected_pairs_steer_the_next_match_and_a_registration(flat, matched, tmp_path, settings):
    file = matched / "pairs" / "pairs.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    keep, drop, *_ = content["pairs"]
    content["pairs"] = [keep | {"status": "accepted"}, drop | {"status": "rejected"}]
    edited = tmp_path / "edited"
    edited.mkdir()
    for path in (matched / "pairs").iterdir():
        (edited / path.name).write_bytes(path.read_bytes())
    (edited / "pairs.json").write_text(json.dumps(content), encoding="utf-8")
    again = job(flat, tmp_path / "again", settings, pairs=edited).run().value
    status = [p.status for p in again.pairs]
    assert status.count("accepted") == 1 and status.count("rejected") == 1 and "proposed" in status
    document = answer(
        "register", flat.fixed, flat.moving, "-o", tmp_path / "r", "--pairs", tmp_path / "again",
        "--config", settings, "--only", "pairs",
    )  # fmt: skip
    assert document["accepted"] == 1


def test_label_maps_pair_by_their_ids(flat, tmp_path, settings):
    result = job(flat, tmp_path / "o", settings, fixed_rois=flat.fixed_labels, moving_rois=flat.moving_labels).run()
    assert {p.name for p in result.value.pairs} == {pair["name"] for pair in result.document["pairs"]} >= {"1", "2"}


def test_a_result_is_kept_and_one_that_was_edited_is_made_again(flat, matched, settings, tmp_path):
    out = tmp_path / "out"
    first = job(flat, out, settings).run()
    assert job(flat, out, settings, resume=True).run().resumed
    assert not job(flat, out, settings, resume=True, top=1).run().resumed
    assert first.document["pairs"]


def test_python_gives_the_pairs_of_the_command(flat, matched, settings):
    pairs = roireg.find_pairs(flat.fixed, flat.moving, config=roireg.Config.load(settings))
    stored = read_pairs(matched)
    assert [(p.moving, p.fixed) for p in pairs.pairs] == [(p.moving, p.fixed) for p in stored.pairs]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--top", "0"), ("--top", "found 0")),
        (("--epsilon", "2"), ("--epsilon", "found 2.0")),
        (("--fixed-rois", "LABELS"), ("moving image is missing", "--moving-rois")),
        (("--fixed-rois", "LABELS", "--one-to-many"), ("--one-to-many", "label maps")),
        (("--pairs", "none"), ("none", "no such file")),
    ],
)
def test_what_cannot_be_matched_is_told(flat, tmp_path, options, words):
    options = [flat.fixed_labels if o == "LABELS" else o for o in options]
    fails("match", flat.fixed, flat.moving, "-o", tmp_path / "out", *options, words=words)
    assert not (tmp_path / "out").exists()


def test_no_pair_is_exit_code_3_and_says_what_to_do(flat, tmp_path, settings):
    result = run(
        "match", flat.fixed, flat.moving, "-o", tmp_path / "out", "--config", settings, "--epsilon", "1"
    )  # fmt: skip
    assert result.exit_code == 3 and "--epsilon" in result.output
