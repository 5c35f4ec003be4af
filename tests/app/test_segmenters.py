"""`--segmenter` and `--segmenter-command`: classes of a network or a program are the regions."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import roireg
from app.scenes import fails, run
from roireg.core.errors import InputError
from roireg.io import read_image
from roireg.segment import CommandSegmenter

PROGRAM = """
import sys
import numpy as np
import PIL.Image
image = np.asarray(PIL.Image.open(sys.argv[1]))
PIL.Image.fromarray(((image > {limit}).astype(np.uint8) * 7).astype(np.uint8)).save(sys.argv[2])
"""
"""Without roireg: a program that others wrote, which starts in a tenth of a second."""


def command(folder: Path, text: str) -> str:
    """A command that runs a few lines of Python."""
    file = folder / "program with spaces.py"
    file.write_text(text, encoding="utf-8")
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(file))} {{image}} {{labels}}"


def test_a_program_names_the_regions(flat, tmp_path):
    image = read_image(flat.fixed)
    limit = float(image.data.max()) / 2
    regions = CommandSegmenter(command(tmp_path, PROGRAM.format(limit=limit)))(image)
    assert regions.names == ("7",)
    torch.testing.assert_close(regions.masks[0], image.data[0] > limit)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("raise SystemExit('no licence for this model')", ("exit code 1", "no licence for this model", "fixed.png")),
        ("print('done')", ("wrote no label map", "done")),
        ("import sys; open(sys.argv[2], 'w').write('text')", ("label map of the segmenter command",)),
    ],
)
def test_a_program_that_fails_is_one_sentence(flat, tmp_path, program, words):
    with pytest.raises(InputError) as caught:
        CommandSegmenter(command(tmp_path, program))(read_image(flat.fixed))
    assert not [w for w in words if w not in str(caught.value)], caught.value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--segmenter-command", "prog {image}"), ("{labels}", "prog")),
        (("--segmenter-command", "prog '{image} {labels}"), ("quot",)),
        (("--segmenter-command", "no-such-program {image} {labels}"), ("no-such-program", "cannot be started")),
        (("--segmenter-command", "a {image} {labels}", "--model", "sam"), ("--model and --segmenter-command",)),
        (("--segmenter", "meshnot"), ("meshnot", "unknown")),
    ],
)
def test_what_is_no_segmenter_is_told(flat, tmp_path, options, words):
    fails("register", flat.fixed, flat.moving, "-o", tmp_path / "out", *options, words=words)
    assert not (tmp_path / "out").exists()


def test_a_settings_file_runs_no_program(flat, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("classes: {command: 'touch {image} {labels}'}\n", encoding="utf-8")
    fails("match", flat.fixed, flat.moving, "-o", tmp_path / "o", "--config", file, words=("runs no programs",))


def test_classes_are_the_pairs_of_a_registration_and_bring_the_images_together(flat, tmp_path, settings):
    image = read_image(flat.fixed)
    program = PROGRAM.replace("* 7", f"+ (image > {float(image.data.max()) * 0.8})")
    program = command(tmp_path, program.format(limit=float(image.data.max()) / 3))
    config = roireg.Config.load(settings).with_classes(command=program)
    result = roireg.register(flat.fixed, flat.moving, config=config)
    assert [p.source for p in result.pairs.pairs] == ["classes"] * len(result.pairs) and len(result.pairs) == 2
    moved = result.transform.map_points(image.grid.center[None]) - image.grid.center
    np.testing.assert_allclose(moved[0], flat.offset, atol=2)
    with pytest.raises(InputError, match="give one of them"):
        roireg.register(
            flat.fixed, flat.moving, config=config, fixed_rois=flat.fixed_labels, moving_rois=flat.moving_labels
        )


def test_segment_lists_the_classes(flat, tmp_path):
    image = read_image(flat.fixed)
    program = command(tmp_path, PROGRAM.format(limit=float(image.data.max()) / 2))
    result = run("segment", flat.fixed, "-o", tmp_path / "r.png", "--segmenter-command", program)
    assert result.exit_code == 0 and "class" in result.output and "7" in result.output
    assert (tmp_path / "r_overview.png").is_file()
