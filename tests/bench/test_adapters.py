"""Adapters on tiny copies of the layouts: right pairs, right labels, landmarks at the right place in the world."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.scenes import deep_pair, flat_pair
from roireg.bench import LAYOUTS, find_problems, load_folder, write_set
from roireg.core.errors import InputError
from roireg.io import read_points, write_image, write_labels


def volume(folder: Path, image: str, labels: str | None = None, *, side: str = "fixed") -> None:
    for name, value in ((image, getattr(deep_pair(), side)), (labels, getattr(deep_pair(), f"{side}_labels"))):
        if name is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (write_labels if name == labels else write_image)(folder / name, value)


def photo(path: Path, *, side: str = "fixed") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, getattr(flat_pair(), side))


def names() -> dict[str, str]:
    return {str(k): v for k, v in deep_pair().label_names.items()}


def put(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def adapted(layout: str, source: Path, target: Path, **options):
    """The case set of a layout: valid, every file fit, and no image copied."""
    before = {p: p.stat().st_mtime_ns for p in source.rglob("*")}
    folder = write_set(layout, source, target, **options)
    assert find_problems(folder) == []
    assert {p: p.stat().st_mtime_ns for p in source.rglob("*") if target not in (p, *p.parents)} == before
    assert {p.suffix for p in target.rglob("*") if p.is_file()} <= {".json", ".csv"}
    return folder


def test_learn2reg(tmp_path):
    source, pair = tmp_path / "OASIS", deep_pair()
    for case, side in (("0001", "fixed"), ("0002", "moving")):
        volume(source, f"imagesTr/T_{case}_0000.nii.gz", f"labelsTr/T_{case}_0000.nii.gz", side=side)
        grid = getattr(pair, side).grid
        indices = grid.index_from_world(getattr(pair, f"{side}_points"))[:, ::-1]
        put(source / f"keypointsTr/T_{case}_0000.csv", "\n".join(",".join(map(repr, map(float, r))) for r in indices))
    volume(source, "imagesTs/T_0003_0000.nii.gz")
    files = [f"./imagesTr/T_{case}_0000.nii.gz" for case in ("0001", "0002")]
    content = {
        "name": "T",
        "modality": {"0": "MR"},
        "labels": {"0": {"0": "background"} | names()},
        "registration_test": [{"fixed": "./imagesTs/T_0003_0000.nii.gz", "moving": files[0]}],
        "registration_val": [{"fixed": files[0], "moving": files[1]}],
        "training_paired_images": [{"fixed": files[1], "moving": files[0]}],
    }
    put(source / "T_dataset.json", content)
    folder = adapted("learn2reg", source, tmp_path / "set")
    (case,) = folder.content.pairs
    assert (folder.content.name, case.id) == ("T", "T_0001_0000_T_0002_0000")
    assert folder.content.labels == pair.label_names
    for side in ("fixed", "moving"):
        found = read_points(folder.file(case, f"{side}_points")).points
        np.testing.assert_allclose(found, getattr(pair, f"{side}_points"), atol=1e-3)
    del content["registration_val"]
    put(source / "T_dataset.json", content)
    assert write_set("learn2reg", source, tmp_path / "set").content.pairs[0].id == "T_0002_0000_T_0001_0000"
    put(source / "T_dataset.json", {"name": "T", "numTraining": 2})
    with pytest.raises(InputError, match="found none of these lists"):
        write_set("learn2reg", source, tmp_path / "other")
    put(source / "more_dataset.json", {})
    with pytest.raises(InputError, match=r"expected one dataset JSON of Learn2Reg, found T_dataset\.json, more"):
        write_set("learn2reg", source, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_acdc(tmp_path):
    source = tmp_path / "ACDC" / "training"
    for patient, es in (("patient001", 12), ("patient002", 7)):
        for frame, side in ((1, "fixed"), (es, "moving")):
            stem = f"{patient}/{patient}_frame{frame:02d}"
            volume(source, f"{stem}.nii.gz", f"{stem}_gt.nii.gz", side=side)
        put(source / patient / "Info.cfg", f"ED: 1\nES: {es}\nGroup: DCM\nNbFrame: 30\n")
    put(source / "patient003" / "Info.cfg", "ED: 1\nES: 9\n")  # not downloaded
    folder = write_set("acdc", tmp_path / "ACDC", tmp_path / "set")
    assert [case.id for case in folder.content.pairs] == ["patient001_ED_ES", "patient002_ED_ES"]
    assert folder.file(folder.content.pairs[0], "moving_labels").name == "patient001_frame12_gt.nii.gz"
    assert folder.content.labels == {1: "RV cavity", 2: "LV myocardium", 3: "LV cavity"}
    put(source / "patient003" / "Info.cfg", "ED: 1\n")
    with pytest.raises(InputError, match="expected the lines ED and ES, found ED"):
        write_set("acdc", tmp_path / "ACDC", tmp_path / "set")


def test_fire(tmp_path):
    source, pair = tmp_path / "FIRE", flat_pair()
    for number, side in ((1, "fixed"), (2, "moving")):
        photo(source / "Images" / f"P07_{number}.png", side=side)
    lines = np.concatenate([pair.fixed_points, pair.moving_points], axis=1)
    table = "\n".join(" ".join(map(str, line)) for line in lines)
    put(source / "Ground Truth" / "control_points_P07_1_2.txt", table)
    folder = adapted("fire", source, tmp_path / "set")
    (case,) = folder.content.pairs
    assert (case.id, case.notes, folder.content.spacing_known) == ("P07_1_P07_2", "small overlap", False)
    np.testing.assert_array_equal(read_points(folder.file(case, "moving_points")).points, pair.moving_points)
    put(source / "Ground Truth" / "control_points_P08_1_2.txt", "1 2 3 4\n")
    with pytest.raises(InputError, match="there is no image P08_1, P08_2"):
        write_set("fire", source, tmp_path / "set")
    put(source / "Ground Truth" / "control_points_P08_1_2.txt", "1 2 3\n")
    for number in (1, 2):
        photo(source / "Images" / f"P08_{number}.png")
    with pytest.raises(InputError, match="expected four numbers per line, found 3"):
        write_set("fire", source, tmp_path / "set")


@pytest.mark.parametrize(
    "places, labels",
    [
        (("imagesTr", "labelsTr"), {"0": "background"} | names()),
        (("images", "labels"), {"background": 0} | {v: int(k) for k, v in names().items()}),
        (("image", "label"), None),
    ],
)
def test_folders_of_images_and_labels(tmp_path, places, labels):
    source = tmp_path / "amos"
    for number, side in ((1, "fixed"), (2, "moving"), (3, "fixed")):
        volume(source, f"{places[0]}/a_{number:04d}_0000.nii.gz", f"{places[1]}/a_{number:04d}.nii.gz", side=side)
        volume(source, f"{places[0]}/a_{number:04d}_0001.nii.gz")
    volume(source, f"{places[0]}/unlabelled.nii.gz")
    if labels is not None:
        put(source / "dataset.json", {"name": "AMOS", "labels": labels, "modality": {"0": "CT"}})
    folder = adapted("folder", source, source / "set")
    assert [case.id for case in folder.content.pairs] == ["a_0001_a_0002", "a_0002_a_0003", "a_0003_a_0001"]
    assert folder.content.labels == (deep_pair().label_names if labels else None)
    assert folder.content.pairs[0].fixed == f"../{places[0]}/a_0001_0000.nii.gz"
    with pytest.raises(InputError, match="expected two folders such as imagesTr and labelsTr"):
        write_set("folder", source / places[0], tmp_path / "other")


def landmark_text(points) -> str:
    return ",X,Y\n" + "\n".join(f"{i},{x},{y}" for i, (x, y) in enumerate(points)) + "\n"


def test_anhir_with_a_list(tmp_path):
    source, pair = tmp_path / "ANHIR", flat_pair()
    for side in ("fixed", "moving"):
        photo(source / "images" / "lung" / f"{side}.png", side=side)
        put(source / "landmarks" / "lung" / f"{side}.csv", landmark_text(getattr(pair, f"{side}_points")))
    put(source / "landmarks" / "lung" / "moving.csv", landmark_text([*pair.moving_points, (1.0, 2.0)]))
    head = ",Source image,Source landmarks,Target image,Target landmarks,status"
    lines = [
        "0,lung/moving.png,lung/moving.csv,lung/fixed.png,lung/fixed.csv,training",
        "1,x.png,x.csv,y.png,,evaluation",
    ]
    put(source / "dataset_medium.csv", "\n".join([head, *lines]))
    folder = adapted("anhir", source, tmp_path / "set")
    (case,) = folder.content.pairs
    assert folder.file(case, "fixed").name == "fixed.png" and folder.modality == "multi"
    assert case.notes == f"the first {len(pair.fixed_points)} of {len(pair.moving_points) + 1} landmarks"
    np.testing.assert_allclose(read_points(folder.file(case, "moving_points")).points, pair.moving_points)
    put(source / "dataset_medium.csv", "\n".join([head, lines[0].replace("lung/fixed.png", "lung/gone.png")]))
    with pytest.raises(InputError, match=r"there is no file lung/gone\.png"):
        write_set("anhir", source / "dataset_medium.csv", tmp_path / "set")


@pytest.mark.parametrize("images", ["dataset", "landmarks"])
def test_cima_without_a_list(tmp_path, images):
    source, pair = tmp_path / "CIMA", flat_pair()
    for name, side in (("he", "fixed"), ("ki67", "moving"), ("cc10", "moving")):
        photo(source / images / "lesion-1" / "scale-5pc" / f"{name}.png", side=side)
        put(source / "landmarks" / "lesion-1" / "scale-5pc" / f"{name}.csv", landmark_text(pair.fixed_points))
    folder = adapted("anhir", source, tmp_path / "set")
    prefix = "landmarks_lesion-1_scale-5pc_"
    assert [case.id for case in folder.content.pairs] == [
        f"{prefix}{a}_{b}" for a, b in (("cc10", "he"), ("cc10", "ki67"), ("he", "ki67"))
    ]
    put(source / "landmarks" / "lesion-1" / "scale-5pc" / "he.csv", "a,b\n1,2\n")
    with pytest.raises(InputError, match="expected landmarks with the columns X and Y"):
        write_set("anhir", source, tmp_path / "set")


def bids_subject(source: Path, subject: str, session: str = "", *, side: str = "fixed") -> None:
    stem = "_".join(part for part in (f"sub-{subject}", session and f"ses-{session}") if part)
    folder = source / f"sub-{subject}" / (f"ses-{session}" if session else "") / "anat"
    volume(folder, f"{stem}_desc-preproc_T1w.nii.gz", f"{stem}_dseg.nii.gz", side=side)
    volume(folder, f"{stem}_space-MNI_desc-preproc_T1w.nii.gz", f"{stem}_space-MNI_dseg.nii.gz")
    volume(folder, f"{stem}_T2w.nii.gz", f"{stem}_desc-aseg_dseg.nii.gz")


def test_bids_between_subjects(tmp_path):
    source = tmp_path / "derivatives"
    for subject, side in (("01", "fixed"), ("02", "moving"), ("03", "fixed")):
        bids_subject(source, subject, side=side)
    put(source / "dseg.tsv", "index\tname\n0\tbackground\n" + "\n".join(f"{k}\t{v}" for k, v in names().items()))
    put(source / "dataset_description.json", {"Name": "prep", "License": "CC0"})
    folder = adapted("bids", source, tmp_path / "set")
    assert [case.id for case in folder.content.pairs] == ["01_02", "02_03", "03_01"]
    case = folder.content.pairs[0]
    assert folder.file(case, "fixed").name == "sub-01_desc-preproc_T1w.nii.gz"
    assert folder.file(case, "moving_labels").name == "sub-02_dseg.nii.gz"
    assert (folder.content.name, folder.content.terms, folder.content.labels) == (
        "prep",
        "CC0",
        deep_pair().label_names,
    )


def test_bids_within_subjects(tmp_path):
    source = tmp_path / "derivatives"
    for subject in ("01", "02"):
        for session, side in (("a", "fixed"), ("b", "moving")):
            bids_subject(source, subject, session, side=side)
    folder = adapted("bids", source, tmp_path / "set")
    assert [case.id for case in folder.content.pairs] == ["01-a_01-b", "02-a_02-b"]
    assert folder.content.task == "intra-subject" and folder.content.labels is None
    for file in source.rglob("*dseg*"):
        file.unlink()
    with pytest.raises(InputError, match="found 0 segmentations"):
        write_set("bids", source, tmp_path / "set")


def test_paths_are_relative_or_absolute(tmp_path):
    source = tmp_path / "data"
    for number, side in ((1, "fixed"), (2, "moving")):
        volume(source, f"images/{number}.nii.gz", f"labels/{number}.nii.gz", side=side)
    near = write_set("folder", source, tmp_path / "sets" / "near")
    far = write_set("folder", source, tmp_path / "sets" / "far", absolute=True)
    assert near.content.pairs[0].moving == "../../data/images/2.nii.gz"
    assert far.content.pairs[0].moving == (source / "images" / "2.nii.gz").resolve().as_posix()
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="which is missing"):
        load_folder(tmp_path / "sets" / "near")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_folder_is_refused(tmp_path, layout):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: (expected|found)"):
        write_set(layout, tmp_path / "empty", tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_unknown_layouts_and_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="no layout 'dicom'; use one of learn2reg, acdc"):
        write_set("dicom", tmp_path, tmp_path / "set")
    with pytest.raises(InputError, match="gone: there is no such folder"):
        write_set("acdc", tmp_path / "gone", tmp_path / "set")
