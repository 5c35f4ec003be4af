"""Training runs: they learn, stop, go on exactly, and refuse what cannot be trained on."""

from __future__ import annotations

import csv
import signal

import numpy as np
import pytest
import torch

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.features import embedding_features
from roireg.io import write_image, write_labels
from roireg.models import load
from roireg.train.configs import SHIPPED, read_config
from roireg.train.embedding import EmbeddingConfig, EmbeddingTask, train_embedding
from roireg.train.runner import TrainingStopped, TrainSettings, processor_minutes, train, trained_weights
from roireg.train.scenes import SceneSource
from roireg.train.volumes import ImageSource, image_files

SMALL = EmbeddingConfig(
    ndim=2, size=32, widths=(4, 4, 8, 8), dim=4, points=8, hard=16, diverse=8, cells=64,
    train=TrainSettings(steps=4, part=2, check=0, batch=2, warmup=1, lr=1e-2),
)  # fmt: skip


def changed(config: EmbeddingConfig, **settings: object) -> EmbeddingConfig:
    return config.model_copy(update={"train": config.train.model_copy(update=settings)})


def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(tmp_path):
    whole = train(EmbeddingTask(SMALL), SMALL.train, tmp_path / "whole")
    # Stopped after the first part of two: as if killed there.
    half = changed(SMALL, steps=2, decay=0.0)
    task = EmbeddingTask(half)
    assert [SMALL.train.rate(k) for k in range(2)] == [half.train.rate(k) for k in range(2)]
    train(task, half.train, tmp_path / "parts")
    resumed = train(EmbeddingTask(SMALL), SMALL.train, tmp_path / "parts", resume=True)
    assert processor_minutes(resumed) >= 0
    one, other = trained_weights(whole), trained_weights(resumed)
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    start = EmbeddingTask(SMALL).network.state_dict()
    assert not torch.equal(one["stem.conv.weight"], start["stem.conv.weight"])


def test_a_run_in_the_folder_is_not_overwritten_and_none_is_not_resumed(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint last\.ckpt to resume from; start without --resume"):
        train(EmbeddingTask(SMALL), SMALL.train, tmp_path, resume=True)
    short = changed(SMALL, steps=1, part=1)
    train(EmbeddingTask(short), short.train, tmp_path)
    with pytest.raises(InputError, match="holds a run already; say --resume"):
        train(EmbeddingTask(short), short.train, tmp_path)
    other = changed(SMALL, lr=1e-3)
    with pytest.raises(InputError, match="was trained with another lr"):
        train(EmbeddingTask(other), other.train, tmp_path, resume=True)


class Broken(EmbeddingTask):
    def loss(self, batch, step):
        loss, numbers = super().loss(batch, step)
        return (loss * float("nan") if step == 3 else loss), numbers


def test_a_loss_that_is_no_number_stops_with_the_step_and_what_to_resume_from(tmp_path):
    with pytest.raises(TrainingStopped, match=r"the loss of step 3 is no finite number; resume from .*last\.ckpt"):
        train(Broken(SMALL), SMALL.train, tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


class Interrupted(EmbeddingTask):
    def loss(self, batch, step):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return super().loss(batch, step)


def test_ctrl_c_ends_a_training_as_anything_else_and_it_can_be_resumed(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(Interrupted(SMALL), SMALL.train, tmp_path)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    last = train(EmbeddingTask(SMALL), SMALL.train, tmp_path, resume=True)
    assert torch.load(last, weights_only=True)["global_step"] == 4


def test_the_network_for_volumes_begins_with_that_for_pictures():
    start = EmbeddingTask(EmbeddingConfig(ndim=3, size=32, start="embedding-2d")).network.state_dict()
    flat = load("embedding-2d", "features").network.state_dict()
    kernel, whole = flat["level1.conv.weight"], start["level1.conv.weight"]
    assert torch.allclose(whole.sum((2, 3, 4)), kernel.sum((2, 3)), atol=1e-5)
    assert (
        torch.allclose(whole[:, :, 1, 0, 0], kernel[:, :, 0, 0] / 3) and float(whole[:, :, 0, 0, 0].abs().max()) == 0
    )
    assert torch.equal(start["level1.norm.running_mean"], flat["level1.norm.running_mean"])
    with pytest.raises(InputError, match="cannot begin this training"):
        EmbeddingTask(SMALL.model_copy(update={"start": "embedding-2d"}))


class OnePair:
    def __init__(self) -> None:
        self.pair = SceneSource(2, 32, seed=5)[1]

    def __getitem__(self, number: int):
        return self.pair


def test_one_pair_is_learned_by_heart_and_one_step_lowers_its_loss():
    # Both pairs of the batch are the same: nothing of the other is a wrong answer.
    task = EmbeddingTask(SMALL.model_copy(update={"diverse": 0}), OnePair())
    batch = task.data.batch(0, 2)
    optimiser = torch.optim.Adam(task.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss, _numbers = task.loss(batch, 0)
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[1] < losses[0] and losses[-1] < 0.6 * losses[0]


def test_training_by_configuration_writes_weights_that_features_take(tmp_path):
    config = changed(SMALL, check=1, steps=2)
    card = train_embedding(config, tmp_path / "run")
    assert card["steps"] == 2 and card["pairs"] == 4 and 0 <= card["held_out"]["near"] <= 1
    with (tmp_path / "run" / "log" / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows and float(rows[-1]["loss"]) > 0 and float(rows[-1]["held_out_near"]) >= 0
    features = embedding_features(model=tmp_path / "run" / "embedding.safetensors")
    image = Image.from_numpy(np.random.default_rng(0).random((20, 30)).astype(np.float32))
    assert features(image, image.grid).channels == 12


def test_a_folder_of_images_gives_pairs_of_crops(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name in ("a", "b"):
        image = Image.from_numpy(rng.random((40, 50, 60)).astype(np.float32), spacing=(2, 2, 2))
        write_image(tmp_path / "images" / f"{name}.nii.gz", image)
    codes = np.zeros((40, 50, 60), np.uint8)
    codes[10:30, 10:30, 10:30] = 3
    write_labels(tmp_path / "labels" / "a.nii.gz", Image(torch.as_tensor(codes[None]), image.grid, dtype="uint8"))
    files = image_files(tmp_path)
    assert [labels is not None for _, labels in files] == [True, False]
    source = ImageSource(files, ndim=3, size=32, spacing=2.0, seed=0)
    assert {3} <= {int(source[k].fixed_labels.max()) for k in range(8)} <= {0, 3}
    pair = source[0]
    assert torch.equal(pair.fixed, source[0].fixed) and pair.fixed.shape == (1, 32, 32, 32)
    with pytest.raises(InputError, match=r"a\.nii\.gz: is 3D in a training of 2D images"):
        ImageSource(files, ndim=2, size=32, spacing=2.0)


def test_folders_that_cannot_be_trained_on(tmp_path):
    with pytest.raises(InputError, match="no such folder of images"):
        image_files(tmp_path / "nothing")
    with pytest.raises(InputError, match="there is no image to train on"):
        image_files(tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match="a label map without an image"):
        image_files(tmp_path)


def test_the_learning_rate_rises_holds_and_falls():
    settings = TrainSettings(steps=100, warmup=10, decay=0.2)
    rates = [settings.rate(k) for k in range(101)]
    assert rates[0] == 0.1 and rates[9:80] == [1.0] * 71 and rates[90] == 0.5 and rates[100] == 0


def test_configurations(tmp_path):
    assert {"embedding-2d", "embedding-3d"} <= set(SHIPPED)
    assert [read_config(f"embedding-{n}d", EmbeddingConfig).ndim for n in (2, 3)] == [2, 3]
    path = tmp_path / "mine.yaml"
    path.write_text("train: {steps: 0}\n")
    with pytest.raises(InputError, match=r"mine\.yaml: train\.steps must be "):
        read_config(path, EmbeddingConfig)
    with pytest.raises(InputError, match="cannot be read"):
        read_config(tmp_path / "none.yaml", EmbeddingConfig)
