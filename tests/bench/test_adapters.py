"""Adapters on tiny copies of the layouts: right pairs, right labels, landmarks at the right place in the world."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.scenes import deep_pair, flat_pair
from roireg.core.errors import InputError
from roireg.io import read_points, write_image, write_labels
from roireg_bench.adapters import LAYOUTS, write_set
from roireg_bench.cases import load_folder
from roireg_bench.checks import find_problems


def volume(folder: Path, image: str, labels: str | None = None, *, side: str = "fixed") -> None:
    for name, value in ((image, getattr(deep_pair(), side)), (labels, getattr(deep_pair(), f"{side}_labels"))):
        if name is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (write_labels if name == labels else write_image)(folder / name, value)


def put_labels(path: Path, *, side: str = "fixed") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_labels(path, getattr(deep_pair(), f"{side}_labels"))


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


@pytest.mark.parametrize(
    "images, labels, pair",
    [
        # AMOS: the number of a person, which looks like that of a channel
        (["amos_0001", "amos_0004", "amos_0005"], ["amos_0001", "amos_0004"], ("amos_0001", "amos_0004")),
        # a person 0, and nobody is somebody else's channel
        (["amos_0000", "amos_0001"], ["amos_0000", "amos_0001"], ("amos_0000", "amos_0001")),
        # nnU-Net: channels of persons whose names end in numbers
        (["p_0001_0000", "p_0001_0001", "p_0002_0000"], ["p_0001", "p_0002"], ("p_0001_0000", "p_0002_0000")),
    ],
)
def test_a_number_is_a_channel_only_where_the_label_map_does_not_have_it(tmp_path, images, labels, pair):
    source = tmp_path / "data"
    for name, side in zip(images, ("fixed", "moving", "fixed"), strict=False):
        volume(source, f"imagesTr/{name}.nii.gz", side=side)
    if images[1].endswith("_0001_0001"):  # the second person is the third file
        volume(source, f"imagesTr/{images[2]}.nii.gz", side="moving")
    for name, side in zip(labels, ("fixed", "moving"), strict=True):
        put_labels(source / "labelsTr" / f"{name}.nii.gz", side=side)
    (case,) = adapted("folder", source, tmp_path / "set").content.pairs
    assert case.id == "_".join(labels)
    assert (Path(case.fixed).name, Path(case.moving).name) == tuple(f"{name}.nii.gz" for name in pair)


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


def cima(source: Path, images: str, landmarks: str, points, *, names=("he", "ki67")) -> None:
    """A tissue of two stains; landmarks may be those of somebody, at one scale."""
    for name, side in zip(names, ("fixed", "moving"), strict=True):
        photo(source / images / f"{name}.png", side=side)
        put(source / landmarks / f"{name}.csv", landmark_text(points))


def test_the_name_of_the_root_says_nothing_about_the_folders_in_it(tmp_path):
    source = tmp_path / "dataset-histology-landmarks"
    cima(source, "dataset/lesion-1/scale-5pc", "landmarks/lesion-1/scale-5pc", flat_pair().fixed_points)
    (case,) = adapted("anhir", source, tmp_path / "set").content.pairs
    assert case.fixed.endswith("dataset-histology-landmarks/dataset/lesion-1/scale-5pc/he.png")


@pytest.mark.parametrize("images", ["dataset", "images"])
def test_annotations_of_somebody_at_the_scale_of_the_images(tmp_path, images):
    source, points = tmp_path / "dataset-histology-landmarks", flat_pair().fixed_points
    cima(source, f"{images}/lesions_1/scale-50pc", "annotations/lesions_1/user-PS_scale-50pc", points)
    photo(source / images / "lesions_1" / "scale-100pc" / "he.png")
    folder = adapted("anhir", source, tmp_path / "set")
    (case,) = folder.content.pairs
    assert case.id == "annotations_lesions_1_user-PS_scale-50pc_he_ki67"
    assert folder.file(case, "moving").resolve() == source / images / "lesions_1" / "scale-50pc" / "ki67.png"
    np.testing.assert_array_equal(read_points(folder.file(case, "fixed_points")).points, points)


def test_annotations_at_another_scale_are_scaled(tmp_path):
    source, points = tmp_path / "clone", flat_pair().fixed_points
    # The corner of the first pixel, (-0.5, -0.5), stays the corner; a pixel of the image is ten of those annotated.
    annotated = np.vstack([(points + 0.5) * 10 - 0.5, [[-0.5, -0.5]]])
    cima(source, "dataset/lesions_3/scale-5pc", "annotations/lesions_3/user-PS_scale-50pc", annotated)
    folder = write_set("anhir", source, tmp_path / "set")
    found = read_points(folder.file(folder.content.pairs[0], "fixed_points")).points
    np.testing.assert_allclose(found, np.vstack([points, [[-0.5, -0.5]]]), atol=1e-9)


def test_images_are_paired_once_however_many_people_annotated_them(tmp_path):
    source, points = tmp_path / "clone", flat_pair().fixed_points
    for person in ("JB", "PS"):
        cima(source, "dataset/t/scale-5pc", f"annotations/t/user-{person}_scale-5pc", points)
    photo(source / "dataset" / "t" / "scale-5pc" / "cc10.png")
    put(source / "annotations" / "t" / "user-PS_scale-5pc" / "cc10.csv", landmark_text(points))
    ids = [case.id for case in write_set("anhir", source, tmp_path / "set").content.pairs]
    assert len(ids) == 3 and all("user-PS" in name for name in ids)
    cima(source, "dataset/t/scale-5pc", "dataset/t/scale-5pc", points)
    ids = [case.id for case in write_set("anhir", source, tmp_path / "set").content.pairs]
    assert [name for name in ids if "user-PS" not in name] == ["dataset_t_scale-5pc_he_ki67"] and len(ids) == 3


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


def segmented_elsewhere(raw: Path, derivative: Path, ending: str = "dseg") -> None:
    for subject, side in (("01", "fixed"), ("02", "moving")):
        volume(raw / f"sub-{subject}" / "anat", f"sub-{subject}_T1w.nii.gz", side=side)
        put_labels(derivative / f"sub-{subject}" / "anat" / f"sub-{subject}_{ending}.nii.gz", side=side)


@pytest.mark.parametrize("ending", ["dseg", "space-orig_desc-manual_dseg"])
@pytest.mark.parametrize("given", ["derivatives/seg", "derivatives", "."])
def test_bids_images_may_lie_in_the_raw_data_set_above(tmp_path, given, ending):
    raw = tmp_path / "raw"
    segmented_elsewhere(raw, raw / "derivatives" / "seg", ending)
    folder = adapted("bids", raw / given, tmp_path / "set")
    (case,) = folder.content.pairs
    assert folder.file(case, "fixed").resolve() == raw / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    assert folder.file(case, "moving_labels").name == f"sub-02_{ending}.nii.gz"


@pytest.mark.parametrize(
    "described",
    [
        {"DatasetLinks": {"raw": "../my%20raw", "templateflow": "https://templateflow.org"}},
        {"SourceDatasets": [{"DOI": "doi:10.1/x"}, {"URL": "file://{raw}"}]},
    ],
)
def test_bids_images_may_lie_where_the_derivative_says(tmp_path, described):
    raw, derivative = tmp_path / "my raw", tmp_path / "seg"
    segmented_elsewhere(raw, derivative)
    put(derivative / "dataset_description.json", json.dumps(described).replace("{raw}", str(raw)))
    (case,) = adapted("bids", derivative, tmp_path / "set").content.pairs
    assert case.fixed == "../my raw/sub-01/anat/sub-01_T1w.nii.gz"
    put(derivative / "dataset_description.json", {"SourceDatasets": "none", "DatasetLinks": ["odd"]})
    with pytest.raises(InputError, match="found 2 segmentations and none with an image"):
        write_set("bids", derivative, tmp_path / "set")


def small_learn2reg(source: Path, **changes: object) -> Path:
    for case, side in (("1", "fixed"), ("2", "moving")):
        volume(source, f"imagesTr/{case}.nii.gz", f"labelsTr/{case}.nii.gz", side=side)
    pair = {"fixed": "./imagesTr/1.nii.gz", "moving": "./imagesTr/2.nii.gz"}
    put(source / "dataset.json", {"name": "T", "registration_val": [pair]} | changes)
    return source


def small_folder(source: Path, **changes: object) -> Path:
    for number, side in ((1, "fixed"), (2, "moving")):
        volume(source, f"images/{number}.nii.gz", f"labels/{number}.nii.gz", side=side)
    put(source / "dataset.json", changes)
    return source


def small_bids(source: Path, **changes: object) -> Path:
    for subject in ("01", "02"):
        bids_subject(source, subject)
    put(source / "dataset_description.json", changes)
    return source


@pytest.mark.parametrize("title", ["", "  ", None])
def test_a_data_set_without_a_name_has_that_of_its_folder(tmp_path, title, monkeypatch):
    sources = {"learn2reg": small_learn2reg, "folder": small_folder, "bids": small_bids}
    for layout, make in sources.items():
        source = make(tmp_path / f"my {layout}", name=title, Name=title)
        assert write_set(layout, source, tmp_path / "set").content.name == f"my {layout}"
    monkeypatch.chdir(tmp_path / "my learn2reg")
    assert write_set("learn2reg", Path(), tmp_path / "set").content.name == "my learn2reg"
    source = small_folder(tmp_path / "odd", name="two\nlines a/b")
    assert write_set("folder", source, tmp_path / "set").content.name == "two lines a-b"


@pytest.mark.parametrize(
    "modality, shown",
    [
        (["MR", "CT"], ("MR", "CT")),
        ("CT", ("CT", "CT")),
        ({}, ("unknown", "unknown")),
        (None, ("unknown", "unknown")),
    ],
)
def test_modalities_come_as_a_table_a_list_or_a_word(tmp_path, modality, shown):
    content = write_set("learn2reg", small_learn2reg(tmp_path / "l", modality=modality), tmp_path / "set").content
    assert (content.modality.fixed, content.modality.moving) == shown
    assert (content.task == "multimodal") == (shown[0] != shown[1])
    content = write_set("folder", small_folder(tmp_path / "f", modality=modality), tmp_path / "set").content
    assert content.modality.fixed == " / ".join(dict.fromkeys(shown))


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    source = small_learn2reg(tmp_path / "l")
    file = source / "dataset.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert write_set("learn2reg", source, tmp_path / "set").content.name == "T"


def learn2reg_pairs(*names: tuple[str, str]) -> dict[str, object]:
    return {
        "registration_val": [{"fixed": f"imagesTr/{a}.nii.gz", "moving": f"imagesTr/{b}.nii.gz"} for a, b in names]
    }


def acdc_patient(folder: Path, text: str = "ED: 1\nES: 2\n") -> None:
    for frame, side in ((1, "fixed"), (2, "moving")):
        stem = f"{folder.name}_frame{frame:02d}"
        volume(folder, f"{stem}.nii.gz", f"{stem}_gt.nii.gz", side=side)
    put(folder / "Info.cfg", text)


def broken_learn2reg(source: Path, what: str) -> None:
    if what == "missing":
        small_learn2reg(source, **learn2reg_pairs(("1", "2"), ("1", "3")))
        put_labels(source / "labelsTr" / "3.nii.gz")
    elif what == "keypoints":
        small_learn2reg(source)
        for case in ("1", "2"):
            put(source / "keypointsTr" / f"{case}.csv", "1,2,3\nnan,2,3\n")
    else:
        pairs = {"twice": [("1", "2"), ("1", "2")], "same": [("1", "1")]}
        changes = learn2reg_pairs(*pairs[what]) if what in pairs else {"registration_val": 5}
        small_learn2reg(source, **changes)


def broken_acdc(source: Path, what: str) -> None:
    acdc_patient(source / "training" / "patient001", "ED: one\nES: 2\n" if what == "word" else "ED: 1\nES: 2\n")
    if what == "twice":
        acdc_patient(source / "copy" / "patient001")


def broken_fire(source: Path, what: str) -> None:
    for number in (1, 2):
        photo(source / "Images" / f"P07_{number}.png")
    text = {"empty": "", "blank": " \n\n", "nan": "1 2 3 4\n1 2 nan 4\n", "ragged": "1 2 3 4\n1 2\n"}[what]
    put(source / "Ground Truth" / "control_points_P07_1_2.txt", text)


def broken_bids(source: Path, what: str) -> None:
    small_bids(source)
    put(source / "dseg.tsv", f"index\tname\n{what}\tliver\n")


def broken_anhir(source: Path, what: str) -> None:
    cima(source, "images", "landmarks", [(1.0, 2.0), (float(what), 2.0)])


BROKEN = {
    "learn2reg": broken_learn2reg,
    "acdc": broken_acdc,
    "fire": broken_fire,
    "bids": broken_bids,
    "anhir": broken_anhir,
}


@pytest.mark.parametrize(
    "layout, what, words",
    [
        ("learn2reg", "missing", r"pair '1_3' names \S*3\.nii\.gz as moving, which is missing; add it"),
        ("learn2reg", "twice", "the id '1_2' occurs twice"),
        ("learn2reg", "same", r"names \S*1\.nii\.gz as fixed and as moving"),
        ("learn2reg", "number", r"dataset\.json: expected lists of pairs, found 5"),
        ("learn2reg", "keypoints", r"1\.csv: point 2 has coordinates not finite"),
        ("acdc", "word", r"Info\.cfg: expected a frame number for ED, found 'one'"),
        ("acdc", "twice", "the id 'patient001_ED_ES' occurs twice"),
        ("fire", "empty", r"control_points_P07_1_2\.txt: the file holds no points"),
        ("fire", "blank", r"control_points_P07_1_2\.txt: the file holds no points"),
        ("fire", "nan", r"control_points_P07_1_2\.txt: point 2 has coordinates not finite"),
        ("fire", "ragged", r"control_points_P07_1_2\.txt: expected four numbers per line"),
        ("bids", "n/a", r"dseg\.tsv: line 2: expected a whole number as index, found 'n/a'"),
        ("bids", "", r"dseg\.tsv: line 2: expected a whole number as index, found ''"),
        ("anhir", "nan", r"he\.csv: point 2 has coordinates not finite"),
    ],
)
def test_odd_input_is_one_sentence_and_leaves_nothing(tmp_path, layout, what, words):
    BROKEN[layout](tmp_path / "src", what)
    with pytest.raises(InputError, match=words) as caught:
        write_set(layout, tmp_path / "src", tmp_path / "set")
    assert "\n" not in str(caught.value)
    assert {p.name for p in tmp_path.iterdir()} == {"src"}


def test_a_set_that_is_there_stays_when_the_new_one_is_faulty(tmp_path):
    source = small_learn2reg(tmp_path / "l")
    write_set("learn2reg", source, tmp_path / "set")
    before = (tmp_path / "set" / "pairs.json").read_bytes()
    small_learn2reg(source, **learn2reg_pairs(("1", "1")))
    with pytest.raises(InputError):
        write_set("learn2reg", source, tmp_path / "set")
    assert (tmp_path / "set" / "pairs.json").read_bytes() == before


def test_a_set_may_be_written_through_a_link(tmp_path):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away", target_is_directory=True)
    folder = adapted("folder", small_folder(tmp_path / "f"), tmp_path / "link" / "set")
    assert folder.content.pairs[0].fixed == "../../../f/images/1.nii.gz"


def test_landmarks_of_pairs_with_like_ids_do_not_meet(tmp_path):
    source, points = tmp_path / "clone", flat_pair().fixed_points
    for i, tissue in enumerate(("a b", "a_b", "a-b")):
        cima(source / tissue, "", "", points + i)
    folder = write_set("anhir", source, tmp_path / "set")
    found = [read_points(folder.file(case, "fixed_points")).points[0, 0] for case in folder.content.pairs]
    assert sorted(found) == [points[0, 0] + i for i in range(3)]


def test_paths_are_relative_or_absolute(tmp_path):
    source = tmp_path / "data"
    for number, side in ((1, "fixed"), (2, "moving")):
        volume(source, f"images/{number}.nii.gz", f"labels/{number}.nii.gz", side=side)
    near = write_set("folder", source, tmp_path / "sets" / "near")
    far = write_set("folder", source, tmp_path / "sets" / "far", absolute=True)
    assert near.content.pairs[0].moving == "../../data/images/2.nii.gz"
    assert far.content.pairs[0].moving == (source / "images" / "2.nii.gz").resolve().as_posix()
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"1\.nii\.gz as fixed, .* which are missing"):
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
