from __future__ import annotations

import itertools

import pytest

from models.tiny import sam_folder
from roireg.core.errors import InputError
from roireg.models.profiles import Profile
from roireg.models.registry import load
from roireg_bench import speed
from roireg_bench.speed import Cost, measure, profile_table, speed_page


def test_totals_add_up():
    assert Cost(256, "float32", 2.0, 1.0, 0.5, 0.25).total(16) == 2 + 4 * 1.75


def test_measuring_takes_the_parts_in_order(tmp_path):
    ticks = itertools.count()
    model = load(sam_folder(tmp_path))
    cost = measure(model, 128, clock=lambda: float(next(ticks)))
    # 64 of the 192 masks are measured.
    assert (cost.encode, cost.decode, cost.upscale, cost.sort) == (1, 1, 3, 3)
    assert model.encoded == 1 and cost.dtype == "float32"


def test_the_table_compares_with_the_published_setting():
    full, less = Cost(1024, "float32", 16.0, 2.0, 1.0, 1.0), Cost(512, "bfloat16", 2.0, 0.5, 0.25, 0.25)
    lines = profile_table({(1024, "float32"): full, (512, "auto"): less}).splitlines()
    assert lines[2].startswith("| fast | 512 | bfloat16 | 16² | 4.0 s | 4.0 s | 2.0 s | 2.0 s | 12.0 s | 13.3 x |")
    assert lines[4].endswith("160.0 s | 1.0 x |")
    with pytest.raises(InputError, match="1024 pixels in float32"):
        profile_table({(512, "auto"): less})


def test_a_pair_end_to_end_is_two_images_each(tmp_path, monkeypatch):
    model = load(sam_folder(tmp_path))
    asked = []
    monkeypatch.setattr(speed, "random_sam", lambda size, **how: asked.append((size, how["device"])) or model)
    ticks = itertools.count()
    profile = Profile(points=2, crop_layers=0, input_size=64, dtype="float32")
    found = speed.end_to_end(size=128, points=2, profile=profile, clock=lambda: float(next(ticks)))
    assert found == (1.0, 1.0)
    assert asked == [(128, "cpu"), (64, "cpu")]
    assert model.encoded == 2


def test_an_unsuitable_size_is_one_sentence():
    with pytest.raises(InputError, match="multiple of 16"):
        speed_page(reference_size=100)
