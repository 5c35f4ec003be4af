"""`roireg bids`: what of a data set is registered to what, and the derivatives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from app.scenes import answer, fails, files_in
from cohort.datasets import write_dataset
from roireg.cohort import BidsJob
from roireg.cohort.bids_layout import read_subjects, steps
from roireg.io import read_image, read_transform
from roireg.pipeline.saved import load


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("bids"))


def test_the_images_of_a_subject_go_onto_its_reference_and_that_onto_the_template(dataset, tmp_path):
    template = dataset.parent / "template.nii.gz"
    job = BidsJob(bids=dataset, out=tmp_path, analysis="participant", template=template, to="X", seed=3)
    first, second = read_subjects(job)
    made = {step.name: step.job for step in steps(job, first)}
    assert list(made) == [
        "sub-01_ses-2_from-T1w_to-ses1T1w",
        "sub-01_ses-1_from-T2w_to-T1w",
        "sub-01_ses-1_from-T1w_to-X",
    ]
    assert [each.type for each in made.values()] == ["rigid", "rigid", None]
    assert {each.seed for each in made.values()} == {3}
    reference = dataset / "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz"
    assert [each.fixed for each in made.values()] == [reference, reference, template]
    assert [step.name for step in steps(job, second)][-1] == "sub-02_ses-1_from-T1w_to-X"
    alone = BidsJob(bids=dataset, out=tmp_path, analysis="participant", participant_label=["sub-02"])
    assert [s.label for s in read_subjects(alone)] == ["02"]


@pytest.mark.usefixtures("warm")
def test_derivatives_have_the_names_and_the_direction_that_others_expect(dataset, tmp_path, settings):
    out = tmp_path / "roireg"
    template, labels = dataset.parent / "template.nii.gz", dataset.parent / "template_labels.nii.gz"
    options = ("--template", template, "--template-labels", labels, "--to", "X", "--config", settings)
    chosen = ("--participant-label", "01", "--session-label", "1")
    # Phantoms of this size are judged harshly; what is written is the same.
    document = answer("bids", dataset, out, "participant", *chosen, *options, code=None)
    assert document["counts"].keys() <= {"ok", "uncertain", "failed"} and not document["left"]
    stem = "sub-01/ses-1/anat/sub-01_ses-1"
    expected = {
        f"{stem}_{name}"
        for name in (
            *(f"from-{a}_to-{b}_mode-image_xfm.h5" for a, b in (("T1w", "X"), ("X", "T1w"), ("T2w", "T1w"))),
            *(f"from-{a}_to-{b}_mode-image_xfm.h5" for a, b in (("T1w", "T2w"), ("T2w", "X"), ("X", "T2w"))),
            "space-X_desc-roireg_T1w.nii.gz",
            "space-X_desc-roireg_T2w.nii.gz",
            "space-T1w_desc-roireg_T2w.nii.gz",
            "desc-X_dseg.nii.gz",
        )
    }
    written = files_in(out)
    assert expected <= written
    assert {name.replace(".nii.gz", ".json").replace(".h5", ".json") for name in expected} <= written
    assert {"sub-01.html", "dataset_description.json", ".bidsignore", "README"} <= written
    description = json.loads((out / "dataset_description.json").read_text(encoding="utf-8"))
    assert description["DatasetType"] == "derivative" and description["GeneratedBy"][0]["Name"] == "roireg"
    side = json.loads((out / f"{stem}_from-T1w_to-X_mode-image_xfm.json").read_text(encoding="utf-8"))
    assert side["Points"] == "maps points of X to points of T1w"
    # Another program resamples with the transform: the same image comes out, on the grid of the template.
    moving = sitk.ReadImage(str(dataset / "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz"), sitk.sitkFloat32)
    xfm = sitk.ReadTransform(str(out / f"{stem}_from-T1w_to-X_mode-image_xfm.h5"))
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, sitk.ReadImage(str(template)), xfm, sitk.sitkLinear, 0.0))
    ours = read_image(out / f"{stem}_space-X_desc-roireg_T1w.nii.gz").data[0].numpy()
    inside = theirs > 0
    assert np.abs(theirs - ours)[inside].mean() < 0.5
    # From the T2w to the template in one step: by way of the T1w.
    points = read_image(template).grid.world_from_index(np.array([[5.0, 12, 14], [6, 10, 9]]))
    onto, within = (load(out / f"work/pairs/sub-01_ses-1_from-{n}").transform for n in ("T1w_to-X", "T2w_to-T1w"))
    chain = read_transform(out / f"{stem}_from-T2w_to-X_mode-image_xfm.h5")
    assert np.allclose(chain.map_points(points), within.map_points(onto.map_points(points)), atol=1e-3)

    # Again: kept, as everything that was written from it.
    times = {name: (out / name).stat().st_mtime_ns for name in expected}
    again = answer("bids", dataset, out, "participant", *chosen, *options, code=None)
    assert all(pair["kept"] for pair in again["pairs"])
    assert {name: (out / name).stat().st_mtime_ns for name in expected} == times
    answer("bids", dataset, out, "group", *chosen, *options, code=None)
    assert "sub-01/figures/sub-01_ses-1_from-T1w_to-X/report.html" in (out / "group.html").read_text(encoding="utf-8")
    table = (out / "group_desc-roireg_volumes.tsv").read_text(encoding="utf-8").splitlines()
    assert table[0] == "participant_id\tfile\tlabel\tvolume_mm3" and len(table) > 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none", "o", "participant"), ("none", "dataset_description.json")),
        (("data", "data", "participant"), ("folder of their own",)),
        (("data", "o", "participant", "--to", "X"), ("--to", "--template")),
        (("data", "o", "participant", "--template", "template.nii.gz", "--to", "a_b"), ("--to", "'a_b'")),
        (("data", "o", "participant", "--participant-label", "07"), ("07", "01, 02")),
        (("data", "o", "participant", "--reference", "FLAIR"), ("sub-01", "FLAIR", "T1w, T2w")),
        (("data", "o", "group"), ("no subject is registered",)),
        (("data", "o", "session"), ("session",)),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(dataset, monkeypatch, arguments, words):
    monkeypatch.chdir(dataset.parent)
    fails("bids", *arguments, words=words)
    assert not (dataset.parent / "o").exists()


def test_a_folder_to_be_made_is_not_asked_for(tmp_path: Path) -> None:
    fails("bids", tmp_path, tmp_path / "new", words=("missing: participant|group",))
