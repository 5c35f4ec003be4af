"""The registry."""

import pytest

from roireg.core.errors import InputError
from roireg.features import (
    IntensityFeatures,
    MindFeatures,
    available_extractors,
    make_extractor,
    register_extractor,
)


def test_registry_builds_by_name():
    assert {"mind", "intensity"} <= set(available_extractors())
    assert make_extractor("mind", radius=2.0) == MindFeatures(radius=2.0)
    assert make_extractor("intensity") == IntensityFeatures()


def test_registry_refuses_unknown_and_taken_names():
    with pytest.raises(InputError, match="use one of"):
        make_extractor("nothing")
    with pytest.raises(InputError, match="does not take"):
        make_extractor("mind", colour=1)
    with pytest.raises(InputError, match="already registered"):
        register_extractor("mind", IntensityFeatures)
