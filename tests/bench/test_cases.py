"""The case-set format: what is accepted, and the sentence for everything that is not."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.scenes import change_json, deep_pair, flat_pair, write_set
from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.io import PointSet, write_labels, write_points
from roireg_bench.cases import CaseSet, choose_cases, find_folders, load_folder
from roireg_bench.checks import check_folders, find_problems
from roireg_bench.methods import METHODS
from roireg_bench.quick import QUICK_METHODS, QUICK_PAIRS, quick_cases
from roireg_bench.schema import schema_text


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_good_set_is_accepted(tmp_path, ndim):
    folder = load_folder(write_set(tmp_path / "set", ndim=ndim))
    assert find_problems(folder) == []
    case = folder.content.pairs[0]
    assert folder.content.ndim == ndim
    assert folder.content.labels == (flat_pair() if ndim == 2 else deep_pair()).label_names
    assert folder.file(case, "fixed_points") == tmp_path / "set" / "fixed_points.csv"


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"fixed": "gone.png"}, "gone.png as fixed, which is missing"),
        ({"moving_points": "gone.csv"}, "gone.csv as moving_points"),
        ({"moving_labels": None}, "labels are scored against each other"),
        ({"fixed": "../fixed.png"}, "fixed.png as fixed, which is missing"),
        ({"true_affine": np.eye(4).tolist()}, "3 x 3"),
        ({"true_affine": [[1.0, 0.0, 0.0], [0.0, 1.0]]}, "3 x 3"),
        ({"ndim": 4}, "ndim"),
        ({"labels": {"0": "background"}}, "labels"),
        ({"pairs": []}, "pairs"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_malformed_sets_are_refused_with_their_place(tmp_path, changes, words):
    folder = write_set(tmp_path / "set", ndim=2)
    change_json(folder, **changes)
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        load_folder(folder)
    assert str(folder / "pairs.json") in str(caught.value)


def test_ids_are_unique_and_something_can_be_scored(tmp_path):
    folder = write_set(tmp_path / "set", ndim=2)
    cases = load_folder(folder).content.model_dump()
    change_json(folder, pairs=cases["pairs"] * 2)
    with pytest.raises(InputError, match="'one' occurs twice"):
        load_folder(folder)
    assert len(find_problems_of(folder)) == 2
    bare = cases["pairs"][0] | dict.fromkeys(("fixed_labels", "moving_labels", "fixed_points", "moving_points"))
    change_json(folder, pairs=[bare])
    with pytest.raises(InputError, match="nothing to score"):
        load_folder(folder)
    change_json(folder, pairs=[bare | {"true_affine": np.eye(3).tolist()}])
    assert load_folder(folder).content.pairs[0].true_affine == np.eye(3).tolist()


@pytest.mark.parametrize("key, where", [("id", r"pairs\.0\.id"), ("name", "name")])
@pytest.mark.parametrize("text", ["two\nlines", "tab\t", "\x1b[31mred", "next\u2028", "\x85"])
def test_ids_and_names_are_plain_text_of_one_line(tmp_path, key, where, text):
    folder = write_set(tmp_path / "set", ndim=2)
    change_json(folder, **{key: text})
    with pytest.raises(InputError, match=f"{where}: .*line break or another control character") as caught:
        load_folder(folder)
    assert text not in str(caught.value)
    pattern = re.compile(CaseSet.model_json_schema()["properties"]["name"]["pattern"])
    assert not pattern.search(text) and pattern.search("Zürich 3 – リンパ節")
    change_json(folder, **{key: "Zürich 3 – リンパ節"})
    assert find_problems(load_folder(folder)) == []


def test_an_image_is_not_registered_onto_itself(tmp_path):
    folder = write_set(tmp_path / "set", ndim=2)
    (folder / "again.png").symlink_to(folder / "fixed.png")
    for name in ("fixed.png", "./fixed.png", "again.png"):
        change_json(folder, moving=name)
        with pytest.raises(InputError, match=r"pair 'one' names fixed\.png as fixed and as moving; name two images"):
            load_folder(folder)


def test_a_byte_order_mark_is_passed_over(tmp_path):
    folder = write_set(tmp_path / "set", ndim=2)
    file = folder / "pairs.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load_folder(folder).content.name == "set"


def test_json_that_is_none(tmp_path):
    folder = write_set(tmp_path / "set", ndim=2)
    (folder / "pairs.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not readable as JSON"):
        load_folder(folder)
    (folder / "pairs.json").unlink()
    with pytest.raises(InputError, match=r"no pairs\.json"):
        load_folder(folder)


def find_problems_of(root):
    return [problem for found in check_folders(root) for problem in found.problems]


def test_every_faulty_pair_of_every_set_is_named(tmp_path):
    data = tmp_path / "data"
    first, second, third = (write_set(data / name, ndim=2) for name in ("a", "b", "c"))
    pair = load_folder(first).content.model_dump()["pairs"][0]
    faulty = [
        pair | {"id": "gone", "fixed": "gone.png", "moving_points": "gone.csv"},
        pair,
        pair | {"id": "extra", "surprise": 1, "moving": 5},
        pair | {"id": "gone too", "fixed": "gone.png"},
        pair | {"id": "self", "moving": pair["fixed"]},
        pair | {"id": "flat", "true_affine": np.eye(4).tolist()},
    ]
    change_json(first, pairs=faulty)
    change_json(second, ndim=4, name="", pairs=[pair | {"id": ""}, pair])
    change_json(third, labels={"99": "x"})
    write_set(data / "d", ndim=2)
    (data / "e").mkdir()
    (data / "e" / "pairs.json").write_text("[1]", encoding="utf-8")
    (data / "f").mkdir()
    (data / "f" / "pairs.json").write_text("{", encoding="utf-8")
    checked = list(check_folders(data))
    assert [(found.name, found.pairs, len(found.problems)) for found in checked] == [
        ("a", 6, 5),
        ("b", 2, 3),
        ("c", 1, 1),
        ("d", 1, 0),
        ("e", 0, 1),
        ("f", 0, 1),
    ]
    sentences = [problem for found in checked for problem in found.problems]
    assert all("\n" not in sentence for sentence in sentences)
    assert "pairs.2.moving" in sentences[0] or "pairs.2.surprise" in sentences[0]
    assert "names gone.png as fixed, gone.csv as moving_points, which are missing; add them" in sentences[1]
    assert "'gone too'" in sentences[2] and "'self'" in sentences[3] and "3 x 3" in sentences[4]
    assert {s.split(": ")[1].split()[0] for s in sentences[5:8]} == {"name", "ndim", "pairs.0.id"}
    assert "does not name the ids" in sentences[8]
    # What refuses to run says it as well, but for what takes reading the images.
    with pytest.raises(InputError) as caught:
        find_folders(data)
    assert str(caught.value).split("\n") == [s for s in sentences if "does not name the ids" not in s]
    assert [f.content.name for f in find_folders(data, ["c", "d"])] == ["c", "d"]


def test_sets_of_one_name_are_a_problem_of_the_second(tmp_path):
    for name in ("a", "b"):
        write_set(tmp_path / name, ndim=2)
    change_json(tmp_path / "b", name="a")
    (sentence,) = find_problems_of(tmp_path)
    assert sentence.startswith(str(tmp_path / "b" / "pairs.json")) and "named 'a' too" in sentence


def problem(folder):
    (found,) = find_problems(load_folder(folder))
    assert found.startswith(f"{folder / 'pairs.json'}: pair 'one': ")
    return found


def test_the_check_reads_the_files(tmp_path):
    folder = write_set(tmp_path / "set", ndim=2)
    labels = flat_pair().fixed_labels
    other = Image(labels.data[:, :-1], Grid.pixels((59, 80)), dtype="uint8", unit="px")

    write_labels(folder / "fixed_labels.png", other)
    assert "fixed_labels.png: the label map lies on another grid" in problem(folder)
    first = labels.data[labels.data > 0].min()
    renamed = labels.with_data(torch.where(labels.data == first, 77, labels.data))
    write_labels(folder / "fixed_labels.png", renamed)
    assert "does not name the ids [77]" in problem(folder)
    change_json(folder, labels=None)
    assert find_problems(load_folder(folder)) == []
    write_labels(folder / "fixed_labels.png", labels.with_data(torch.full_like(labels.data, 77)))
    assert "share no label id" in problem(folder)
    write_labels(folder / "fixed_labels.png", labels)
    assert find_problems(load_folder(folder)) == []
    write_points(folder / "fixed_points.csv", PointSet(flat_pair().fixed_points[1:]))
    assert "row i of one file" in problem(folder)
    write_points(folder / "fixed_points.csv", PointSet(deep_pair().fixed_points))
    assert re.search(r"3 coordinates but .* is 2D", problem(folder))
    change_json(folder, ndim=3)
    assert "is 2D but the set says ndim 3" in problem(folder)


def test_files_may_lie_elsewhere(tmp_path):
    near, far = (write_set(tmp_path / name, ndim=2) for name in ("near", "far"))
    change_json(near, fixed="../far/fixed.png", moving=str(far / "moving.png"))
    assert find_problems(load_folder(near)) == []
    case = load_folder(near).content.pairs[0]
    assert load_folder(near).digest(case) == load_folder(far).digest(load_folder(far).content.pairs[0])


def test_the_digest_follows_what_methods_are_told_about_the_images(tmp_path):
    folder = write_set(tmp_path / "set", ndim=2)
    digests = []
    for task in ("synthetic", "inter-subject", "multimodal"):
        change_json(folder, task=task)
        found = load_folder(folder)
        digests.append(found.digest(found.content.pairs[0]))
    # A word that no method sees does not make results old.
    assert digests[0] == digests[1] != digests[2]


def mhd(data: str) -> str:
    return f"ObjectType = Image\nNDims = 2\nDimSize = 4 4\nElementType = MET_UCHAR\nElementDataFile = {data}\n"


def nhdr(data: str) -> str:
    return f"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 4 4\nencoding: raw\n{data}\n"


@pytest.mark.parametrize(
    "image, header, data",
    [
        ("a.mhd", mhd("a b.raw"), "a b.raw"),
        ("a.mhd", mhd("sub/a.zraw"), "sub/a.zraw"),
        ("a.mhd", mhd("s%02d.raw 1 2 1"), "s02.raw"),
        ("a.mhd", mhd("LIST\none.raw\ntwo.raw"), "two.raw"),
        ("a.mhd", mhd("a.raw").replace("\n", "\r\n"), "a.raw"),
        ("a.nhdr", nhdr("data file: a.raw.gz"), "a.raw.gz"),
        ("a.nhdr", nhdr("datafile: ./a.raw"), "a.raw"),
        ("a.nhdr", nhdr("data file: LIST\none.raw\ntwo.raw"), "two.raw"),
        ("a.hdr", "header", "a.img"),
        ("a.img", "voxels", "a.hdr"),
        ("A.1.HDR", "header", "A.1.img"),
    ],
)
def test_the_digest_follows_the_data_of_images_in_two_files(tmp_path, image, header, data):
    folder = write_set(tmp_path / "set", ndim=2)
    (folder / image).write_bytes(header.encode())
    (folder / data).parent.mkdir(exist_ok=True)
    (folder / data).write_bytes(b"first")
    change_json(folder, fixed=image)
    found = load_folder(folder)
    first = found.digest(found.content.pairs[0])
    assert found.digest(found.content.pairs[0]) == first
    (folder / data).write_bytes(b"other")
    assert found.digest(found.content.pairs[0]) != first


@pytest.mark.parametrize("text", [mhd("LOCAL"), mhd("gone.raw"), "ObjectType = Image\n", nhdr("")])
def test_a_header_without_other_files_is_its_own_digest(tmp_path, text):
    folder = write_set(tmp_path / "set", ndim=2)
    ending = "nhdr" if text.startswith("NRRD") else "mhd"
    digests = []
    for name in ("a", "b"):
        (folder / f"{name}.{ending}").write_text(text, encoding="latin-1")
        change_json(folder, fixed=f"{name}.{ending}")
        found = load_folder(folder)
        digests.append(found.digest(found.content.pairs[0]))
    assert digests[0] == digests[1]


def test_the_digest_follows_contents_and_not_names(tmp_path):
    a, b = (load_folder(write_set(tmp_path / name, ndim=2)) for name in ("a", "b"))
    first = a.digest(a.content.pairs[0])
    assert first == b.digest(b.content.pairs[0].model_copy(update={"id": "renamed", "notes": "new"}))
    write_points(b.path / "moving_points.csv", PointSet(flat_pair().moving_points + 1e-3))
    assert first != b.digest(b.content.pairs[0])
    assert first != a.digest(a.content.pairs[0].model_copy(update={"true_affine": np.eye(3).tolist()}))


def test_sets_are_found_by_folder(tmp_path):
    write_set(tmp_path / "b", ndim=2)
    write_set(tmp_path / "a", ndim=3)
    (tmp_path / "not a set").mkdir()
    assert [f.content.name for f in find_folders(tmp_path)] == ["a", "b"]
    assert [f.content.name for f in find_folders(tmp_path, ["b"])] == ["b"]
    assert [f.content.name for f in find_folders(tmp_path / "a")] == ["a"]
    with pytest.raises(InputError, match="no case set c; found a, b"):
        find_folders(tmp_path, ["a", "c"])
    with pytest.raises(InputError, match=r"found no pairs\.json"):
        find_folders(tmp_path / "not a set")
    with pytest.raises(InputError, match="no such folder"):
        find_folders(tmp_path / "gone")
    change_json(tmp_path / "b", name="a")
    with pytest.raises(InputError, match="several case sets are named a"):
        find_folders(tmp_path)


def test_the_schema_names_what_a_pair_needs():
    schema = CaseSet.model_json_schema()["$defs"]["Case"]
    assert set(schema["required"]) == {"id", "fixed", "moving"}
    assert schema["additionalProperties"] is False


def test_the_committed_schema_is_that_of_the_code():
    """Write it anew with ``roireg bench check --schema > docs/pairs.schema.json``."""
    assert (Path(__file__).parents[2] / "docs" / "pairs.schema.json").read_text(encoding="utf-8") == schema_text()


def many(tmp_path, **counts):
    folders = []
    for name, count in counts.items():
        folder = write_set(tmp_path / name, ndim=2)
        pair = load_folder(folder).content.model_dump()["pairs"][0]
        change_json(folder, pairs=[pair | {"id": f"p{i}"} for i in range(count)])
        folders.append(load_folder(folder))
    return folders


def chosen(folders):
    return {f.content.name: [case.id for case in f.content.pairs] for f in folders}


def test_pairs_are_chosen_by_pattern(tmp_path):
    folders = many(tmp_path, one=2, other=3, third=1)
    assert choose_cases(folders, []) == folders
    assert chosen(choose_cases(folders, ["o*"])) == {"one": ["p0", "p1"], "other": ["p0", "p1", "p2"]}
    assert chosen(choose_cases(folders, ["other/p[12]", "third"])) == {"other": ["p1", "p2"], "third": ["p0"]}
    assert chosen(choose_cases(folders, ["*/p2"])) == {"other": ["p2"]}
    with pytest.raises(InputError, match=r"no pair fits hand\*; .*of the sets one, other, third"):
        choose_cases(folders, ["one", "hand*"])


def test_the_quick_choice_is_small_and_known(tmp_path):
    folders = many(tmp_path, hippocampus=3, else_where=2)
    assert chosen(quick_cases(folders)) == {"hippocampus": ["p0", "p1"]}
    assert sum(QUICK_PAIRS.values()) <= 12 and set(QUICK_METHODS) <= set(METHODS)
    with pytest.raises(InputError, match="found none of them; choose with --filter"):
        quick_cases(folders[1:])


def test_the_modality_hint_follows_the_task(tmp_path):
    folder = write_set(tmp_path / "set", ndim=2)
    assert load_folder(folder).modality == "mono"
    change_json(folder, task="multimodal")
    assert load_folder(folder).modality == "multi"


@pytest.mark.data
def test_real_sets_are_in_this_format(data_dir):
    folders = find_folders(data_dir)
    assert len(folders) > 20
    for name in ("samreg_cardiac_slices", "rigid_recovered"):
        assert find_problems(next(f for f in folders if f.content.name == name)) == []
    assert set(QUICK_PAIRS) <= {f.content.name for f in folders}
