"""Studies: what settings files mean, what is measured, and that a study goes on where it stopped."""

import csv

import numpy as np
import pytest
import torch

import roireg
from bench.scenes import bench, write_set
from cheaper import cheapen, keep_prepared, shorter
from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.transforms import Affine
from roireg_bench.cases import load_folder
from roireg_bench.studies import CLASSES, Scene, SettingsStudy, Study, find_study, run_study, studies, study_page
from roireg_bench.studies.settings import centroid_distances
from roireg_bench.studies.study import Column
from roireg_bench.studies.work import BEFORE

SWEEP = """
title: steps of the fit
preset: regions
settings: {segment: {max_count: 20}, stages: {velocity: {levels: 1}}, verdict: {probability: false}}
sweep: {stages.velocity.iterations: [[1], [3]]}
"""


def study_of(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return SettingsStudy.load(file)


def test_every_study_of_the_package_is_sound_and_runs_on_two_sets():
    for name, make in studies().items():
        study = make()
        assert study.name == name and study.title and len(study.variants) > 1, name
        assert len(study.sets) >= 2, name


def test_a_sweep_sets_one_value_per_variant_and_keeps_the_rest(tmp_path):
    study = study_of(tmp_path, SWEEP)
    assert list(study.variants) == ["[1]", "[3]"] and study.axis == "iterations"
    for steps, variant in zip((1, 3), study.members.values(), strict=True):
        assert variant.config.stages[-1].iterations == (steps,)
        assert variant.config.stages[-1].levels == 1 and variant.config.segment.max_count == 20
    two = study_of(tmp_path, "title: t\nsweep: {match.top: [1, null], match.threshold: [0.1, 0.2]}")
    assert (
        list(two.variants)[1] == "top 1, threshold 0.2"
        and two.members["top none, threshold 0.1"].config.match.top is None
    )


def test_variants_change_what_the_study_has_in_common(tmp_path):
    text = """
title: t
preset: regions
settings: {match: {top: 5, threshold: 0.3}}
variants:
  common:
  own: {preset: default, settings: {match: {threshold: 0.2}}, regions: labels, type: rigid}
"""
    study = study_of(tmp_path, text)
    common, own = (study.members[k] for k in ("common", "own"))
    assert (common.preset, common.config.match.threshold, common.regions) == ("regions", 0.3, "found")
    assert (own.preset, own.config.match.threshold, own.config.match.top) == ("default", 0.2, 5)
    assert (own.regions, own.type) == ("labels", "rigid")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("title: t", "either a `sweep` or `variants`"),
        ("title: t\nsweep: {match.tip: [1]}", "unknown setting 'match.tip'"),
        ("title: t\nvariants: {a: {preset: best}}", "there is no preset 'best'"),
        ("title: t\nvariants: {a: {regions: mine}}", "regions"),
        ("sweep: {match.top: [1]}", "title"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(tmp_path, text, sentence):
    with pytest.raises(InputError, match=r"mine\.yaml: ") as error:
        study_of(tmp_path, text)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_study_names_those_there_are(tmp_path):
    with pytest.raises(InputError, match=r"there is no study 'gamma'.*epsilon"):
        find_study("gamma")
    with pytest.raises(InputError, match="there is no such file"):
        find_study(str(tmp_path / "none.yaml"))


def test_prompts_inside_the_labels_lie_in_them(tmp_path, monkeypatch):
    cheapen(monkeypatch, shorter)
    keep_prepared(monkeypatch)
    text = """
title: t
preset: promptreg
settings: {prompt: {count: 3}, stages: {velocity: {levels: 1, iterations: [2]}}, verdict: {probability: false}}
variants: {in: {prompts: inside}, out: {prompts: outside}}
"""
    study = study_of(tmp_path, text)
    folder = load_folder(write_set(tmp_path / "flat", ndim=2))
    scene = Scene(folder, folder.content.pairs[0])
    inside = scene.truth.labels[1]
    where = {}
    for name, variant in study.members.items():
        mask = inside.with_data((inside.data != 0).int())
        result = roireg.register(scene.fixed, scene.moving, config=variant.config, moving_mask=mask)
        points = np.concatenate([q.points for p in result.pairs.pairs for q in p.prompts])
        index = np.round(inside.grid.index_from_world(points)).astype(int)
        where[name] = [bool(inside.data[(0, *i)]) for i in index]
    assert all(where["in"]) and where["in"] and not any(where["out"])
    assert study.measure("in", scene)["pairs"] >= 1


def test_centroids_are_compared_in_world_after_the_labels_moved():
    grid = Grid((20, 30), np.array([[0.0, 1, 0], [2, 0, 0], [0, 0, 1]]))
    labels = torch.zeros(1, 20, 30)
    labels[0, 4:8, 5:11], labels[0, 12:15, 20:24] = 1, 2
    image = Image(labels.int(), grid)
    assert centroid_distances(image, image, None) == pytest.approx([0, 0])
    shifted = Affine.translation(np.array([3.0, 4.0]))
    assert centroid_distances(image, image, shifted) == pytest.approx([5, 5])
    away = Affine.translation(np.array([1000.0, 0]))
    assert len(centroid_distances(image, image, away)) == 0


class Counting(Study):
    """Measures how often it was asked."""

    name, title, source, sets, columns = "counting", "how often", "", ("flat", "deep"), (Column("count", "count", 0),)

    def __init__(self, steps=(1, 2)):
        self.steps, self.asked = steps, 0

    @property
    def variants(self):
        return {f"by {k}": {"step": k} for k in self.steps}

    def measure(self, variant, scene):
        self.asked += 1
        assert scene.fixed.ndim == scene.moving.ndim == scene.folder.content.ndim
        return {"count": self.asked}


def test_only_what_has_changed_is_measured_again(tmp_path):
    folders = [load_folder(write_set(tmp_path / "flat", ndim=2))]
    study = Counting()
    rows = list(run_study(study, folders))
    assert [(r.variant, dict(r.values)) for r in rows] == [
        (BEFORE, {}),
        ("by 1", {"count": 1}),
        ("by 2", {"count": 2}),
    ]
    assert list(run_study(study, folders, known=rows)) == rows and study.asked == 2
    other = Counting(steps=(1, 3))
    assert [dict(r.values) for r in run_study(other, folders, known=rows)] == [{}, {"count": 1}, {"count": 1}]
    page = study_page(study, rows)
    assert "| by 2 | 1 | 2 |" in page and BEFORE not in page


def test_the_command_measures_writes_and_goes_on(tmp_path):
    data, out = write_set(tmp_path / "flat", ndim=2), tmp_path / "out"
    file = tmp_path / "steps.yaml"
    file.write_text(SWEEP, encoding="utf-8")
    first = bench("study", file, data, "-o", out, "--threads", "1")
    assert first.exit_code == 0, first.output
    assert {p.name for p in out.iterdir()} == {"steps.csv", "steps.md", "steps.png"}
    with (out / "steps.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [r["variant"] for r in rows] == [BEFORE, "[1]", "[3]"]
    assert float(rows[1]["dice_mean"]) > float(rows[0]["dice_mean"]) and float(rows[1]["pairs"]) > 0
    assert {"centroid_error_mean", "centroid_error_rms", "landmark_error_mean", "folding_percent"} <= set(rows[1])
    before = (out / "steps.csv").read_bytes()
    again = bench("study", file, data, "-o", out, "--threads", "1")
    assert again.exit_code == 0 and (out / "steps.csv").read_bytes() == before

    wrong = bench("study", "epsilon", data, "-o", out)
    assert wrong.exit_code == 2 and "choose with --sets" in wrong.output.replace("\n", " ")
    assert "epsilon: how alike" in bench("study", "--list").stdout


def test_classes_are_listed_beside_files(monkeypatch):
    monkeypatch.setitem(CLASSES, "counting", Counting)
    assert isinstance(find_study("counting"), Counting) and "epsilon" in studies()
