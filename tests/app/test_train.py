"""``roireg train`` on the command line."""

from __future__ import annotations

import numpy as np

from app.scenes import run
from roireg.core.image import Image
from roireg.io import read_image, write_image


def test_a_sheet_of_scenes(tmp_path):
    result = run("train", "scenes", "-o", tmp_path / "a.png", "--count", 2, "--seed", 4)
    assert result.exit_code == 0, result.output
    assert read_image(tmp_path / "a.png").grid.shape == (134, 4 * 264)
    assert run("train", "scenes", "-o", tmp_path / "a.png", "--count", 1).exit_code == 0
    (tmp_path / "mine.png").write_bytes(b"mine")
    refused = run("train", "scenes", "-o", tmp_path / "mine.png", "--count", 1)
    assert refused.exit_code == 2 and "--replace" in refused.output


def test_trainings_that_cannot_begin(tmp_path):
    config = tmp_path / "mine.yaml"
    for text, sentence in (
        (f"volumes: {tmp_path / 'none'}", "no such folder of images to train on"),
        (f"volumes: {tmp_path / 'empty'}", "there is no image to train on"),
        (f"ndim: 2\nvolumes: {tmp_path / 'mixed'}", "is 3D in a training of 2D images"),
        ("depth: 3", "mine.yaml: depth: Extra inputs are not permitted"),
    ):
        config.write_text(text)
        (tmp_path / "empty").mkdir(exist_ok=True)
        (tmp_path / "mixed").mkdir(exist_ok=True)
        write_image(tmp_path / "mixed" / "a.nii.gz", Image.from_numpy(np.zeros((4, 5, 6), np.float32), spacing=1.0))
        result = run("train", "embedding", "--config", config, "-o", tmp_path / "run")
        assert result.exit_code == 2 and sentence in result.output.replace("\n", " ")
        assert not (tmp_path / "run").exists()


def test_nothing_to_resume(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("size: 32\nwidths: [4, 4, 4, 4]\ndim: 4\n")
    result = run("train", "embedding", "--config", config, "-o", tmp_path / "run", "--resume")
    assert result.exit_code == 2 and "there is no checkpoint last.ckpt to resume from" in result.output
