"""What `import roireg` does to a process: nothing heavy, and threads that wait without spinning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import roireg

HEAVY = ("torch", "numpy", "SimpleITK", "scipy", "nibabel", "matplotlib", "fastapi", "uvicorn")


def child(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=settings | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


def test_import_loads_nothing_heavy():
    answer = child(f"import roireg, sys; print([name for name in {HEAVY} if name in sys.modules])")
    assert answer.stdout.strip() == "[]"


needs_openmp = pytest.mark.skipif(not torch.backends.openmp.is_available(), reason="torch without OpenMP")


@needs_openmp
@pytest.mark.parametrize(("chosen", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_of_torch_wait_passively_unless_the_user_says_otherwise(chosen, expected):
    # The runtime prints its settings when torch loads it.
    answer = child("import roireg; roireg.Image", OMP_DISPLAY_ENV="TRUE", **chosen)
    lines = [line for line in answer.stderr.splitlines() if "OMP_WAIT_POLICY" in line]
    assert lines and all(expected in line for line in lines)


def test_every_public_name_is_there_and_listed():
    assert set(roireg.__all__) <= set(dir(roireg))
    for name in roireg.__all__:
        assert getattr(roireg, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        roireg.nothing  # noqa: B018


def test_files_are_looked_at_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, content in {
        "i.png": "\x89PNG\r\n\x1a\n",
        "p.csv": "x,y\n1,two\n",
        "p.fcsv": "# Markups fiducial file version = 4.11\nnonsense",
        "p.mrk.json": '{"markups": [',
        "no.yaml": "match: [1,\n",
        "other.yaml": "matching: {}\n",
    }.items():
        (tmp_path / name).write_text(content, encoding="latin-1")
    wrong = [
        {"fixed": "empty"},
        {"fixed": "p.csv"},
        {"moving_labels": "p.csv"},
        {"fixed_rois": "empty"},
        {"fixed_points": "p.csv"},
        {"fixed_points": "p.fcsv"},
        {"moving_points": "p.mrk.json"},
        {"moving_points": "i.png"},
        {"config": "no.yaml"},
        {"config": "other.yaml"},
        {"out": "i.png"},
        {"init": "empty"},
    ]
    code = f"""
import os, sys
from pathlib import Path
from roireg.core.errors import RoiregError
from roireg.jobs import RegisterJob
os.chdir({str(tmp_path)!r})
for options in {wrong}:
    places = {{"fixed": "i.png", "moving": "i.png", "out": "o", **options}}
    try:
        RegisterJob(**{{name: place if name == "init" else Path(place) for name, place in places.items()}}).check()
    except RoiregError:
        print("torch" in sys.modules)
"""
    assert child(code).stdout.split() == ["False"] * len(wrong)
