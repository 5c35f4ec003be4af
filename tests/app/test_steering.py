"""`register` steered by prompts, pairs and networks, and `segment` by a network, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.scenes import answer, fails, files_in, run
from models.tiny import saved
from roireg.io import read_labels, read_pairs
from support import dice


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("sam", tmp_path_factory.mktemp("network"))


def config(folder: Path, path: Path) -> Path:
    """Settings of a network that is asked little and keeps all it is told; `--model` replaces its section."""
    file = folder / "network.yaml"
    file.write_text(
        f"stages: [{{stage: affine}}]\nnetwork: {{model: '{path}', profile: full, points: 2}}\n"
        "match: {features: model}\nverdict: {probability: false}\n"
    )
    return file


# -- prompts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["px", "mm"])
def test_a_prompt_of_the_command_line_is_an_accepted_pair(flat, tmp_path, settings, unit):
    # Pixels are the world of a raster image.
    options = ("--config", settings, "--unit", unit, "--prompt", "34,29", "--only", "pairs,result")
    document = answer("register", flat.fixed, flat.moving, "-o", tmp_path / "out", *options)
    pairs = read_pairs(tmp_path / "out" / "pairs")
    first = pairs.pairs[0]
    assert (first.status, first.source) == ("accepted", "prompt")
    assert dice(pairs.fixed.masks[first.fixed], read_labels(flat.fixed_labels).data[0] == 2) > 0.85
    assert dice(pairs.moving.masks[first.moving], read_labels(flat.moving_labels).data[0] == 2) > 0.85
    arguments = document["provenance"]["arguments"]
    assert arguments["prompt"] == ["34,29"] and arguments["preset"] == "default"


def test_voxels_and_mm_are_the_same_place_of_a_volume(volume, tmp_path, settings):
    labels = read_labels(volume.moving_labels)
    index = [float(v) for v in (labels.data[0] == 1).nonzero().double().mean(0).round()]
    world = labels.grid.world_from_index([index])[0]
    found = []
    for name, unit, place in (("a", "px", index[::-1]), ("b", "mm", world)):
        options = ("--prompt", ",".join(map(str, place)), "--unit", unit, "--prompt-in", "moving", "--only", "pairs")
        images = (volume.fixed, volume.moving, "-o", tmp_path / name, "--init", volume.truth)
        result = run("register", *images, "--config", settings, *options)
        assert result.exit_code == 0, result.output
        found.append(json.loads((tmp_path / name / "pairs" / "pairs.json").read_text(encoding="utf-8"))["pairs"][0])
    assert found[0]["status"] == "accepted"
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prompt", "500,3"), ("fixed.png", "(500, 3)", "outside the image")),
        (("--prompt", "1,2,3"), ("--prompt", "2 numbers", "1,2,3")),
        (("--prompt", "9,9", "--unit", "cm"), ("--unit", "'px', 'mm'", "cm")),
        (("--prompt", "9,9", "--prompt-in", "left"), ("--prompt-in", "'fixed', 'moving'", "left")),
        (("--unit", "px"), ("--unit", "--prompt", "not given")),
        (("--prompt-in", "moving"), ("--prompt-in", "--prompt", "not given")),
        (("--pairs-only",), ("--pairs-only", "--pairs", "not given")),
        (("--roi-weight", "-2"), ("from 0 to", "-2")),
        (("--model", "sam-vit-bas"), ("sam-vit-bas", "did you mean sam-vit-base")),
        (("--model", "sam-vit-base", "--profile", "fats"), ("fats", "--profile", "'fast', 'balanced'")),
        (("--model", "sam-vit-base"), ("sam-vit-base", "not on this disk", "roireg models fetch")),
        (("--profile", "fast"), ("--profile", "--model")),
        (("--window", "lung"), ("--window", "--model")),
        (("--cache", "kept"), ("--cache", "--model")),
        (("--features", "colour"), ("colour", "intensity")),
        (("--preset", "promtreg"), ("promtreg", "promptreg")),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(flat, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROIREG_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    fails("register", flat.fixed, flat.moving, "-o", "out", *options, words=words)
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--point", "500,3"), ("outside the image",)),
        (("--box", "3,3,3,9"), ("box", "no area")),
        (("--point", "9,9", "--point", "9,9", "--label", "1", "--label", "0"), ("both inside", "outside")),
        (("--point", "9,9", "--model", "medsem"), ("medsem", "did you mean medsam")),
        (("--point", "9,9", "--window", "lung"), ("--window", "--model")),
    ],
)
def test_mistakes_in_prompts_are_one_sentence_and_write_nothing(flat, tmp_path, options, words):
    fails("prompt", flat.fixed, flat.moving, "-o", tmp_path / "out", *options, words=words)
    assert files_in(tmp_path) == set()


# -- pairs ----------------------------------------------------------------------------------------


def test_decided_pairs_steer_and_others_are_found_unless_refused(flat, tmp_path, settings):
    options = ("--config", settings, "--only", "pairs")
    first = tmp_path / "first"
    answer("register", flat.fixed, flat.moving, "-o", first, *options)
    file = first / "pairs" / "pairs.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    assert len(content["pairs"]) >= 3
    kept, gone = content["pairs"][:2]
    content["pairs"] = [kept | {"status": "accepted"}, gone | {"status": "rejected"}]
    file.write_text(json.dumps(content))
    steered = answer("register", flat.fixed, flat.moving, "-o", tmp_path / "a", *options, "--pairs", first / "pairs")
    pairs = read_pairs(tmp_path / "a" / "pairs")
    statuses = [p.status for p in pairs.pairs]
    assert statuses[0] == "accepted" and statuses[-1] == "rejected" and "proposed" in statuses
    assert steered["pairs"] == len(pairs.active)
    alone = answer(
        "register",
        flat.fixed,
        flat.moving,
        "-o",
        tmp_path / "b",
        *options,
        "--pairs",
        first / "pairs",
        "--pairs-only",
    )
    assert alone["pairs"] == 1 and alone["provenance"]["arguments"]["pairs_only"]


# -- networks -------------------------------------------------------------------------------------


def test_register_with_a_network_says_how_long_and_which(flat, tmp_path, settings, network):
    options = ("--model", network, "--profile", "fast", "--cache", tmp_path / "kept", "--only", "result")
    result = run("register", flat.fixed, flat.moving, "-o", tmp_path / "out", "--config", settings, *options)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stderr.splitlines() if "takes about" in line]
    assert lines == ["note: finding regions: the network takes about 1 s"]
    stored = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))["provenance"]
    assert stored["model"]["name"] == "sam" and stored["model"]["key"]
    assert stored["settings"]["network"]["profile"] == "fast"
    assert stored["settings"]["match"]["features"] == "model"
    assert "cache" not in stored["inputs"]
    assert len(list((tmp_path / "kept").glob("*.embedding"))) == 2


def test_a_network_of_a_settings_file(flat, tmp_path, network):
    document = answer(
        "register", flat.fixed, flat.moving, "-o", tmp_path / "out", "--config", config(tmp_path, network)
    )
    assert document["provenance"]["model"]["name"] == "sam"
    # A random network is sure of nothing; that is said.
    assert any("led to no region pair" in reason for reason in document["reasons"])


def test_segment_and_prompt_with_a_network(flat, tmp_path, network):
    options = ("--model", network, "--profile", "fast", "--device", "cpu")
    document = answer("segment", flat.fixed, "-o", tmp_path / "all.png", *options)
    assert document["model"] == str(network)
    one = answer("segment", flat.fixed, "-o", tmp_path / "one.png", "--point", "34,29", *options)
    assert one["regions"]
    asked = ("--point", "34,29", "--guide", "identity", *options, "--json")
    result = run("prompt", flat.fixed, flat.moving, "-o", tmp_path / "p", *asked)
    found = json.loads(result.stdout)
    assert found["settings"]["segmenter"] == str(network)
    # Whether a random network finds a counterpart is left to chance; the exit code and the files say which it was.
    (prompt,) = found["prompts"]
    assert result.exit_code == (3 if prompt["pair"] is None else 0)
    assert (tmp_path / "p" / "pairs").exists() == (prompt["pair"] is not None)
    assert prompt["reason"] if prompt["pair"] is None else prompt["confidence"] >= 0.45


def test_files_that_are_no_such_network_are_refused(flat, tmp_path, network):
    place = tmp_path / "in"
    whole = saved("sam-file", place)
    cut = place / "cut.pth"
    cut.write_bytes(whole.read_bytes()[:2000])
    other = saved("mobile-sam", place)
    before = files_in(tmp_path)
    images = (flat.fixed, flat.moving, "-o", tmp_path / "out")
    fails("register", *images, "--model", cut, words=("cut.pth",))
    fails("register", *images, "--model", f"sam-vit-base={other}", words=("not sam-vit-base",))
    fails("register", *images, "--model", network, "--window", "lugn", words=("lugn", "did you mean lung"))
    fails("register", *images, "--model", network, "--profile", "quick", words=("quick", "profile"))
    fails("segment", flat.fixed, "-o", tmp_path / "s.png", "--model", cut, words=("cut.pth",))
    fails("prompt", *images, "--point", "9,9", "--model", cut, words=("cut.pth",))
    assert files_in(tmp_path) == before
