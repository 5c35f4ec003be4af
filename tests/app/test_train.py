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
        ("depth: 3", "mine.yaml: depth is not a known entry"),
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


def test_deformation_networks_on_the_command_line(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("size: 32\nwidth: 2\nnetwork: lapirn\ntrain: {steps: 1, batch: 1}\n")
    result = run("train", "deform", "--config", config, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "held-out pairs were" in result.output and (tmp_path / "run" / "deform.safetensors").is_file()
    again = run("train", "deform", "--config", config, "-o", tmp_path / "run")
    assert again.exit_code == 2 and "holds a run already" in again.output
    config.write_text(f"volumes: {tmp_path / 'none'}\n")
    refused = run("train", "deform", "--config", config, "-o", tmp_path / "other")
    assert refused.exit_code == 2 and "no such folder of images to train on" in refused.output.replace("\n", " ")
    assert not (tmp_path / "other").exists()


def test_a_network_that_was_never_trained_ends_a_registration_with_code_2(tmp_path):
    image = Image.from_numpy(np.random.default_rng(0).random((16, 16)).astype(np.float32))
    write_image(tmp_path / "a.nii.gz", image)
    (tmp_path / "mine.yaml").write_text(f"stages:\n- stage: deform\n  weights: {tmp_path / 'none.safetensors'}\n")
    images = (tmp_path / "a.nii.gz", tmp_path / "a.nii.gz")
    result = run("register", *images, "-o", tmp_path / "out", "--config", tmp_path / "mine.yaml")
    assert result.exit_code == 2 and "no such file of a trained deformation network" in result.output
    assert not (tmp_path / "out").exists()
