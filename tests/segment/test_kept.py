"""What is prepared of an image that comes again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from roireg.cohort import pair as cohort_pair
from roireg.io import write_image
from roireg.segment import HierarchySegmenter, hierarchy
from roireg.segment.kept import Kept
from segment.phantoms import three_discs


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    own: Kept = Kept()
    monkeypatch.setattr(hierarchy, "KEPT", own)
    monkeypatch.setattr(cohort_pair, "KEPT", own)
    return own


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every hierarchy that is built."""
    seen: list[object] = []
    make = hierarchy.Hierarchy.of
    monkeypatch.setattr(hierarchy.Hierarchy, "of", lambda *given: seen.append(given) or make(*given))
    return seen


def test_an_equal_image_is_prepared_once(kept: Kept, built: list[object]) -> None:
    image, _ = three_discs()
    copy = replace(image, data=image.data.clone())
    kept.count = 2
    segmenter = HierarchySegmenter()
    assert segmenter.prepare(image) is segmenter.prepare(copy) and len(built) == 1
    others = [
        (segmenter, replace(image, data=image.data + 1)),
        (segmenter, replace(image, name="other")),
        (HierarchySegmenter(alternatives=2), image),
    ]
    for k, (other, given) in enumerate(others, start=2):
        assert other.prepare(given).settings is other and len(built) == k
    # Two stay, and the first was asked for longest ago.
    segmenter.prepare(image)
    assert len(built) == 5
    assert torch.equal(segmenter.prepare(image).regions().masks, segmenter(copy).masks)


def test_nothing_stays_unless_asked(kept: Kept, built: list[object]) -> None:
    image, _ = three_discs()
    assert HierarchySegmenter().prepare(image) is not HierarchySegmenter().prepare(image)
    assert len(built) == 2


def test_a_process_of_a_cohort_finds_the_regions_of_a_template_once(
    kept: Kept, built: list[object], tmp_path: Path
) -> None:
    image, _ = three_discs()
    config = tmp_path / "quick.yaml"
    config.write_text("stages: [{stage: affine}]\nverdict: {probability: false}\n")
    files = [str(tmp_path / f"{k}.mha") for k in range(3)]
    for k, file in enumerate(files):
        write_image(file, image.with_data(image.data.roll(k, -1)))
    for moving in files[1:]:
        options = {"fixed": files[0], "moving": moving, "out": f"{moving}-onto-0"}
        cohort_pair.register_pair(options={**options, "config": str(config), "only": "transform"})
    assert len(built) == 3
