"""Settings load from and save to YAML, and mistakes in them are named."""

from __future__ import annotations

import pytest
import yaml
from pydantic import ValidationError

from roireg.core.errors import InputError
from roireg.fit import Published, RegionAffine, Search, Velocity
from roireg.pipeline import PRESETS, Config, preset
from roireg.pipeline.prompt_settings import PROMPT_PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_a_round_trip(name, tmp_path):
    settings = preset(name)
    settings.save(tmp_path / "settings.yaml")
    assert Config.load(tmp_path / "settings.yaml") == settings
    written = yaml.safe_load((tmp_path / "settings.yaml").read_text(encoding="utf-8"))
    assert list(written) == list(Config.model_fields)


def write(folder, text):
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_changes_only_what_it_names(tmp_path):
    found = Config.load(write(tmp_path, "stages:\n  velocity:\n    smoothness: 0.7\n"))
    assert found == Config().with_options("velocity", smoothness=0.7)
    search, velocity = found.stages
    assert search == Config().stages[0] and velocity.smoothness == 0.7


def test_a_list_of_stages_replaces_that_of_the_preset(tmp_path):
    text = "stages:\n- stage: affine\n  model: rigid\n- stage: published\n"
    found = Config.load(write(tmp_path, text))
    assert found.stages == (RegionAffine(model="rigid"), Published())


def test_options_of_stages_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="called 'published'; theirs are search, velocity"):
        Config().with_options("published", iterations=3)
    with pytest.raises(InputError, match=r"'stages.velocity.levels' must be a number of 1 or more, found 0"):
        Config().with_options("velocity", levels=0)


def test_a_file_can_start_from_a_preset(tmp_path):
    found = Config.load(write(tmp_path, "preset: samreg\nmatch:\n  threshold: 0.6\n"))
    samreg = preset("samreg")
    assert found.match.threshold == 0.6 and samreg.match.threshold != 0.6
    assert found.match.model_copy(update={"threshold": 0}) == samreg.match.model_copy(update={"threshold": 0})
    assert found.segment == samreg.segment and found.stages == samreg.stages


def test_an_empty_file_is_the_default(tmp_path):
    assert Config.load(write(tmp_path, "")) == Config()
    assert Config.load(write(tmp_path, "# nothing\n")) == Config()


@pytest.mark.parametrize(
    "text, said",
    [
        ("stages:\n  velocty: {}\n", r"no stage 'velocty', only search, velocity"),
        ("dense: {}\n", r"unknown setting 'dense'"),
        (
            "stages:\n  velocity:\n    smoothness: -1\n",
            r"'stages.velocity.smoothness' must be .* 0 or more, found -1",
        ),
        ("stages:\n  velocity:\n    speed: 1\n", r"unknown setting 'stages.velocity.speed'"),
        ("stages:\n- stage: magic\n", r"'stages.stage' must be one of affine, .*velocity.*found 'magic'"),
        ("stages:\n- stage: velocity\n  model: spline\n", r"'stages.velocity.model'.*'svf'.*found 'spline'"),
        ("stages: 3\n", "setting 'stages' must be a list, found 3"),
        ("stages:\n  velocity: 3\n", "setting 'stages.velocity' must be a section with values of its own, found 3"),
        ("match: 3\n", "setting 'match' must be a section with values of its own, found 3"),
        ("match:\n  slices: perhaps\n", "setting 'match.slices' must be true or false, found 'perhaps'"),
        ("match:\n  weights:\n    embedding: x\n", "setting 'match.weights.embedding' must be a number, found 'x'"),
        ("network:\n  window: 5\n", "setting 'network.window' must be a text or a list, found 5"),
        ("stages:\n  search:\n    trials: many\n", "'stages.search.trials' must be a whole number, found 'many'"),
        ("preset: nonsense\n", r"no preset 'nonsense'; use one of default, regions, samreg"),
        ("- a\n- b\n", r"expected sections such as `match:`.*found list"),
        ("match: [unclosed\n", r"not valid YAML"),
    ],
)
def test_mistakes_are_named_in_one_sentence(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=said) as caught:
        Config.load(path)
    assert "\n" not in str(caught.value) and "Input should" not in str(caught.value)
    if "preset" not in text:
        assert str(path) in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match="there is no such configuration file"):
        Config.load(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        Config.load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="not UTF-8 text"):
        Config.load(tmp_path / "binary.yaml")


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(InputError, match="'sam'; use one of default, regions, samreg"):
        preset("sam")


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(ValidationError):
        Config().stages = ()


def test_every_setting_explains_itself():
    missing = []

    def look(model, where):
        for name, field in model.model_fields.items():
            inner = field.annotation
            if hasattr(inner, "model_fields"):
                look(inner, f"{where}{name}.")
            elif not field.description and name != "stage":
                missing.append(where + name)

    for model in (Config, RegionAffine, Published, Search, Velocity):
        look(model, f"{model.__name__}.")
    assert missing == []


def test_with_a_network_samreg_has_the_published_numbers():
    """METHODS 1.1 and 1.2: 0.5-17.5 % of the area, overlap 0.9, cosine, one-to-one, 0.8, eleven slices."""
    alone = preset("samreg")
    assert alone.match.similarity == "descriptor" and alone.match.geometric and not alone.match.slices
    named = Config.of({"preset": "samreg", "network": {"model": "sam-vit-base"}, "match": {"top": 5}})
    for s in (alone.with_network("sam-vit-base"), named):
        assert (s.segment.min_fraction, s.segment.max_fraction, s.segment.max_overlap) == (0.005, 0.175, 0.9)
        assert (s.match.similarity, s.match.assignment, s.match.threshold) == ("cosine", "greedy", 0.8)
        assert s.match.slices and s.match.slice_range == 11 and not s.match.geometric
        assert s.stages[-1].blind and s.network.model == "sam-vit-base"
    assert named.match.top == 5


def test_with_a_network_promptreg_is_as_published():
    alone = preset("promptreg")
    assert alone.prompt.settings.guide == "auto" and alone.prompt.settings.transfer.joint
    published = alone.with_network("sam-vit-base").prompt
    assert published.count == 4 and published.settings == PROMPT_PRESETS["promptreg"]
    changed = alone.with_options("velocity", levels=2)
    assert changed.with_network("sam-vit-base").prompt == changed.prompt  # one's own settings stay
