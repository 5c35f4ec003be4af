from __future__ import annotations

import pytest
import torch

from models.tiny import sam_folder
from roireg.core.errors import InputError
from roireg.models import load
from roireg.models.profiles import PROFILES, Profile, profile_named


def test_profiles_get_more_thorough():
    fast, balanced, full = (profile_named(n) for n in ("fast", "balanced", "full"))
    assert fast.points < balanced.points < full.points
    assert full == Profile(points=32, crop_layers=0, input_size=None, dtype="float32", volume_points=512)
    with pytest.raises(InputError, match="use one of fast, balanced, full"):
        profile_named("slow")


def test_segmenter_and_features_load_the_same(tmp_path):
    folder = sam_folder(tmp_path)
    assert load(folder, profile="fast").key == load(folder, "features", profile="fast").key


def test_nothing_is_shown_larger_than_it_was_trained_for(tmp_path, monkeypatch):
    folder = sam_folder(tmp_path)
    raster = torch.rand(3, 40, 50) * 255
    # The tiny network sees 128 pixels, fewer than any profile asks for.
    assert load(folder, profile="fast").encode(raster).tensors["image"].shape[2:] == (8, 8)
    monkeypatch.setitem(PROFILES, "fast", Profile(points=4, crop_layers=0, input_size=64, dtype="float32"))
    assert load(folder, profile="fast").encode(raster).tensors["image"].shape[2:] == (4, 4)
    assert load(folder, profile="fast", input_size=96).encode(raster).tensors["image"].shape[2:] == (6, 6)
