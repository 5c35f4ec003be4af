"""The case-set format: what is accepted, and the sentence for everything that is not."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.scenes import change_json, deep_pair, flat_pair, write_set
from roireg.bench import (
    METHODS,
    CaseSet,
    choose_cases,
    find_folders,
    find_problems,
    load_folder,
    quick_cases,
    schema_text,
)
from roireg.bench.quick import QUICK_METHODS, QUICK_PAIRS
from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.io import PointSet, write_labels, write_points


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
    bare = cases["pairs"][0] | dict.fromkeys(("fixed_labels", "moving_labels", "fixed_points", "moving_points"))
    change_json(folder, pairs=[bare])
    with pytest.raises(InputError, match="nothing to score"):
        load_folder(folder)
    change_json(folder, pairs=[bare | {"true_affine": np.eye(3).tolist()}])
    assert load_folder(folder).content.pairs[0].true_affine == np.eye(3).tolist()


def test_json_that_is_none(tmp_path):
    folder = write_set(tmp_path / "set", ndim=2)
    (folder / "pairs.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not readable as JSON"):
        load_folder(folder)
    (folder / "pairs.json").unlink()
    with pytest.raises(InputError, match=r"no pairs\.json"):
        load_folder(folder)


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
    write_labels(folder / "fixed_labels.png", labels.with_data(torch.full_like(labels.data, 77)))
    assert "does not name the ids [77]" in problem(folder)
    change_json(folder, labels=None)
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
