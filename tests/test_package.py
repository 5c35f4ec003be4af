"""What `import roireg` does to a process: nothing heavy, and threads that wait without spinning."""

from __future__ import annotations

import os
import subprocess
import sys

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
