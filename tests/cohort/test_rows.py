"""Tables of pairs: what they may say, and one sentence for what they may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from roireg.cohort.rows import all_pairs, all_to, read_table
from roireg.core.errors import InputError


def written(folder: Path, text: str, name: str = "pairs.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_a_table_says_files_and_settings_per_row(tmp_path):
    table = written(
        tmp_path,
        "id\tfixed\tmoving\tmoving-labels\tseed\tpairs_only\tprompt\toutputs\tinit\troi_weight\n"
        "one\ta.png\t/data/b.png\tl.png\t7\tyes\t1,2;3,4\ttransform\ti:t.h5\t0.5\n"
        "\tc.png\td.png\t\t\t\t\t\tcenters\t\n",
        "pairs.tsv",
    )
    first, second = read_table(table)
    assert first.id == "one" and second.id == "d_to_c"
    assert first.options == {
        "fixed": tmp_path / "a.png",
        "moving": Path("/data/b.png"),
        "moving_labels": tmp_path / "l.png",
        "seed": 7,
        "pairs_only": True,
        "prompt": ["1,2", "3,4"],
        "only": "transform",
        "init": f"i:{tmp_path / 't.h5'}",
        "roi_weight": 0.5,
    }
    assert second.options == {"fixed": tmp_path / "c.png", "moving": tmp_path / "d.png", "init": "centers"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("empty",)),
        ("fixed,moving\n", ("no rows",)),
        ("fixed,movin\na,b\n", ("'movin'", "moving")),
        ("fixed,moving,out\na,b,c\n", ("'out'", "unknown")),
        ("fixed\na\n", ("column moving",)),
        ("fixed,moving,fixed\na,b,c\n", ("twice",)),
        ("fixed,moving\na\n", ("line 2", "2 cells")),
        ("fixed,moving\na,\n", ("line 2", "moving", "empty")),
        ("fixed,moving,seed\na,b,x\n", ("line 2", "seed", "'x'")),
        ("fixed,moving,pairs_only\na,b,perhaps\n", ("line 2", "yes or no", "'perhaps'")),
        ("id,fixed,moving\n../x,a,b\n", ("line 2", "'../x'", "folder")),
        ("id,fixed,moving\nx,a,b\n\nX,c,d\n", ("lines 2 and 4", "'X'", "occurs twice")),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_one_sentence(tmp_path, text, words):
    with pytest.raises(InputError) as caught:
        read_table(written(tmp_path, text))
    assert not [w for w in words if w not in str(caught.value)], caught.value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("text", ["fixed,moving\r\nä b/x.png,ü.png\r\n", "fixed;moving\r\n\r\nä b/x.png;ü.png\r\n"])
def test_tables_of_spreadsheets_are_read(tmp_path, text, encoding):
    (tmp_path / "pairs.csv").write_bytes(text.encode(encoding))
    (row,) = read_table(tmp_path / "pairs.csv")
    assert row.options == {"fixed": tmp_path / "ä b" / "x.png", "moving": tmp_path / "ü.png"}
    (tmp_path / "pairs.csv").write_bytes(text.encode("cp1252"))
    with pytest.raises(InputError, match="UTF-8"):
        read_table(tmp_path / "pairs.csv")


def test_images_make_rows(tmp_path):
    files = [Path("x/a.nii.gz"), Path("x/b.nii.gz"), Path("y/a.nii.gz")]
    assert [row.id for row in all_to(Path("t.nii"), files)] == ["a_to_t_1", "b_to_t", "a_to_t_3"]
    rows = all_pairs(files)
    assert [(r.options["fixed"], r.options["moving"]) for r in rows] == [
        (files[0], files[1]),
        (files[0], files[2]),
        (files[1], files[2]),
    ]
    with pytest.raises(InputError, match="two images"):
        all_pairs(files[:1])
