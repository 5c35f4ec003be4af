"""Training of deformation networks: pairs, losses by configuration, runs, refusals."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.io import write_image, write_labels
from roireg.models.deformer import integrated, warped
from roireg.models.deformers import load_deformer
from roireg.train.configs import SHIPPED, read_config
from roireg.train.deform import DeformConfig, DeformTask, Weights, folded_share, train_deform
from roireg.train.deform_losses import known_distance
from roireg.train.deform_pairs import DeformBatches, affine_rest, pair_sources
from roireg.train.runner import TrainingStopped, TrainSettings, train, trained_weights
from roireg.train.scenes import SceneSource

NETWORKS = ("voxelmorph", "localnet", "lapirn", "same")
TRAIN = TrainSettings(steps=4, part=2, check=0, batch=1, warmup=1, lr=1e-3)


def config(network: str = "voxelmorph", **settings: object) -> DeformConfig:
    return DeformConfig.model_validate({"network": network, "size": 32, "width": 4, "train": TRAIN} | settings)


@pytest.fixture(scope="module")
def pair():
    return SceneSource(2, 32, seed=5, affine=0.2, bend=2.0)[1]


class OnePair:
    def __init__(self, pair) -> None:
        self.pair = pair

    def __getitem__(self, number: int):
        return self.pair


@pytest.mark.parametrize("network", NETWORKS)
def test_one_step_lowers_the_loss_and_one_pair_is_learned_by_heart(network, pair):
    # Every part of the loss at once.
    weights = Weights(similarity=0.5, embedding=0.1, labels=0.1, smoothness=0.01, known=1.0)
    task = DeformTask(config(network, weights=weights, width=4), (OnePair(pair), OnePair(pair)))
    batch = task.data.batch(0, 1)
    optimiser = torch.optim.Adam(task.parameters(), lr=5e-3)
    losses = []
    for _ in range(25):
        loss, numbers = task.loss(batch, 0)
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert set(numbers) == {f"loss_{n}" for n in ("similarity", "embedding", "labels", "smoothness", "known")}
    assert losses[1] < losses[0] and losses[-1] < 0.8 * losses[0]


def test_batches_know_where_everything_went(pair):
    batch = DeformBatches(OnePair(pair)).batch(0, 2)
    labels = warped(batch.moving_labels[:, None].float(), batch.displacement, mode="nearest")[:, 0]
    agree = (labels == batch.fixed_labels)[batch.valid > 0].float().mean()
    still = (batch.moving_labels == batch.fixed_labels)[batch.valid > 0].float().mean()
    assert float(agree) > 0.9 > float(still)


def test_the_affine_rest_is_exact_where_the_displacement_is_affine(pair):
    batch = DeformBatches(OnePair(pair)).batch(0, 1)
    at = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="xy"))
    affine = torch.stack([0.1 * at[0] - 0.2 * at[1] + 1, 0.3 * at[1] - 2])[None]
    nearest, known = affine_rest(type(batch)(batch.fixed, batch.moving, affine, *(getattr(batch, n) for n in (
        "valid", "fixed_labels", "moving_labels"))))  # fmt: skip
    assert torch.allclose(nearest, known, atol=1e-4)


def test_a_smaller_level_of_the_batch_has_shorter_displacements(pair):
    batch = DeformBatches(OnePair(pair)).batch(0, 1)
    small = batch.shrunk([32, 32], [2, 2])
    assert small.fixed.shape == (1, 1, 16, 16) and small.fixed_labels.shape == small.valid.shape == (1, 16, 16)
    assert torch.allclose(small.displacement[0, :, 3, 5], batch.displacement[0, :, 6:8, 10:12].mean((1, 2)) / 2)
    assert float(small.fixed[0, 0, 3, 5]) == pytest.approx(float(batch.fixed[0, 0, 6:8, 10:12].mean()), abs=1e-6)


def test_levels_of_lapirn_join_one_after_the_other(pair):
    task = DeformTask(config("lapirn", grow=(2, 4)), (OnePair(pair), OnePair(pair)))
    batch = task.data.batch(0, 1)
    levels = [task.network.model_lvl2.model_lvl1, task.network.model_lvl2, task.network]
    for step, count in ((0, 1), (2, 2), (4, 3)):
        task.zero_grad(set_to_none=True)
        task.loss(batch, step)[0].backward()
        learns = [level.input_encoder_lvl1[0].weight.grad is not None for level in levels]
        assert learns == [k < count for k in range(3)]


@pytest.mark.parametrize("network", ("same", "lapirn"))
def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(network, tmp_path):
    whole = config(network)
    undisturbed = train(DeformTask(whole), whole.train, tmp_path / "whole")
    half = whole.model_copy(update={"train": TRAIN.model_copy(update={"steps": 2, "decay": 0.0})})
    train(DeformTask(half), half.train, tmp_path / "parts")
    resumed = train(DeformTask(whole), whole.train, tmp_path / "parts", resume=True)
    one, other = trained_weights(undisturbed), trained_weights(resumed)
    start = DeformTask(whole).network.state_dict()
    assert one.keys() == other.keys() == start.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert any(not torch.equal(one[k], start[k]) for k in one)


class Broken(DeformTask):
    def loss(self, batch, step):
        loss, numbers = super().loss(batch, step)
        return (loss * float("nan") if step == 3 else loss), numbers


def test_a_loss_that_is_no_number_stops_with_the_step_and_the_checkpoint(tmp_path):
    with pytest.raises(TrainingStopped, match=r"the loss of step 3 is no finite number; resume from .*last\.ckpt"):
        train(Broken(config()), TRAIN, tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_a_constant_pair_moves_nothing_and_has_a_finite_gradient(pair):
    flat = torch.full_like(pair.fixed, 0.3)
    constant = type(pair)(
        flat, flat, pair.fixed_labels * 0, pair.moving_labels * 0, pair.moving_from_fixed, pair.valid
    )
    weights = Weights(embedding=1.0, labels=1.0)
    task = DeformTask(config("same", weights=weights), (OnePair(constant), OnePair(constant)))
    loss, _ = task.loss(task.data.batch(0, 1), 0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-4)
    assert all(bool(torch.isfinite(p.grad).all()) for p in task.parameters() if p.grad is not None)


def test_training_by_configuration_writes_weights_with_a_card(tmp_path, monkeypatch):
    monkeypatch.setattr(DeformTask, "HELD_OUT", 4)
    settings = config(train=TRAIN.model_copy(update={"steps": 2, "check": 1}))
    card = train_deform(settings, tmp_path / "run")
    assert card == json.loads((tmp_path / "run" / "deform.json").read_text(encoding="utf-8"))
    assert (card["family"], card["steps"], card["squarings"], card["size"]) == ("voxelmorph", 2, 7, 32)
    held = card["held_out"]
    assert held["affine"] < held["before"] and 0 <= held["folded"] <= 1
    with (tmp_path / "run" / "log" / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[-1]["loss_similarity"]) > 0 and float(rows[-1]["held_out_after"]) > 0
    model = load_deformer(tmp_path / "run" / "deform.safetensors")
    assert model.trained and model.card.ndim == 2 and model.network.squarings == 7 and model.spacing is None


def test_held_out_pairs_are_measured_against_the_known_displacement(pair, monkeypatch):
    monkeypatch.setattr(DeformTask, "HELD_OUT", 4)
    task = DeformTask(config(), (OnePair(pair), OnePair(pair)))
    batch = DeformBatches(OnePair(pair)).batch(0, 4)
    measured = task.measured()
    assert measured["before"] == measured["after"] and measured["unlike"] == measured["unlike_before"]
    monkeypatch.setattr(type(task.network), "forward", lambda self, fixed, moving: batch.displacement)
    task.network.squarings = 0
    measured = task.measured()
    assert measured["after"] < 0.01 < measured["affine"] and measured["folded"] == 0


def test_folds_are_counted():
    u = torch.zeros(2, 10, 10)
    assert folded_share(u) == 0
    u[0, :, 5] = -3.0  # (x): the column behind the one before it
    assert folded_share(u) == pytest.approx(0.1)


def test_seven_squarings_are_the_flow():
    v = torch.zeros(1, 2, 21, 21)
    v[0, 0] = 0.1 * (torch.arange(21.0) - 10)  # grows by e^0.1 along x
    u = integrated(v, 7)
    assert float(u[0, 0, 10, 15]) == pytest.approx(5 * (np.exp(0.1) - 1), rel=1e-3)
    assert torch.equal(integrated(v, 0), v)


def write_folder(folder, *, labels: bool = True, count: int = 2):
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(count):
        image = Image.from_numpy(rng.random((40, 50)).astype(np.float32), spacing=(2, 2))
        write_image(folder / "images" / f"{k}.nii.gz", image)
        if labels:
            (folder / "labels").mkdir(exist_ok=True)
            codes = np.zeros((40, 50), np.uint8)
            codes[10 + k : 30, 10:30] = 3
            write_labels(
                folder / "labels" / f"{k}.nii.gz", Image(torch.as_tensor(codes[None]), image.grid, dtype="uint8")
            )
    return folder


def test_subjects_are_two_images_with_their_labels(tmp_path):
    folder = write_folder(tmp_path)
    how = {"ndim": 2, "size": 32, "spacing": 2.0, "seed": 0, "affine": 0.2, "bend": 1.0, "labelled": True}
    trained, held_out = pair_sources(folder, subjects=True, **how)
    one, again = trained[3], trained[3]
    assert torch.equal(one.fixed, again.fixed) and not torch.equal(one.fixed, one.moving)
    assert one.fixed.shape == (1, 32, 32) and not bool(one.valid.any()) and int(one.fixed_labels.max()) == 3
    assert any(not torch.equal(trained[k].fixed, held_out[k].fixed) for k in range(4))
    settings = config("localnet", volumes=folder, pairs="subjects", weights=Weights(labels=1.0))
    loss, numbers = DeformTask(settings).loss(DeformBatches(trained).batch(0, 2), 0)
    assert 0 < numbers["loss_labels"] < 1 and bool(torch.isfinite(loss))


def test_images_smaller_than_a_crop_are_surrounded_by_nothing(tmp_path):
    folder = write_folder(tmp_path)
    how = {"ndim": 2, "size": 64, "spacing": 2.0, "seed": 0, "affine": 0.2, "bend": 1.0, "labelled": False}
    pair = pair_sources(folder, subjects=True, **how)[0][0]
    assert pair.fixed.shape == (1, 64, 64) and float(pair.fixed[0, 0].abs().max()) == 0


def test_folders_that_cannot_be_trained_on(tmp_path):
    bare, single = write_folder(tmp_path / "bare", labels=False), write_folder(tmp_path / "single", count=1)
    with pytest.raises(InputError, match=r"bare: has no label map, but the loss compares labels"):
        DeformTask(config(volumes=bare, weights=Weights(labels=1.0)))
    with pytest.raises(InputError, match="single: has one image, but two are taken at a time"):
        DeformTask(config(volumes=single, pairs="subjects"))
    with pytest.raises(InputError, match="no such folder of images"):
        DeformTask(config(volumes=tmp_path / "none"))
    with pytest.raises(InputError, match="is 2D in a training of 3D images"):
        DeformTask(config(volumes=bare, ndim=3))
    (tmp_path / "alone" / "images").mkdir(parents=True)
    (tmp_path / "alone" / "labels").mkdir()
    (tmp_path / "alone" / "labels" / "a.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match="a label map without an image"):
        DeformTask(config(volumes=tmp_path / "alone"))


def test_settings_that_contradict_each_other(tmp_path):
    path = tmp_path / "mine.yaml"
    for text, sentence in (
        ("pairs: subjects", "pairs of subjects need a folder of images"),
        (f"volumes: {tmp_path}\npairs: subjects\nweights: {{known: 1}}", "no displacement between subjects is known"),
        ("network: same\ngrow: [5]", "only lapirn has levels that join"),
        ("network: lapirn\ngrow: [5, 5]", "in rising order"),
        ("weights: {similarity: 0}", "every part of the loss that tells where things go has weight 0"),
        ("network: transmorph", "network must be 'voxelmorph', 'localnet', 'lapirn' or 'same', found 'transmorph'"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=sentence):
            read_config(path, DeformConfig)


def test_shipped_configurations_are_of_every_network():
    names = [name for name in SHIPPED if name.startswith("deform-")]
    configs = [read_config(name, DeformConfig) for name in names]
    assert {c.network for c in configs} == set(NETWORKS) and {c.ndim for c in configs} == {2, 3}


def test_the_known_distance_is_that_of_valid_voxels_only():
    known = torch.zeros(1, 2, 2, 2)
    found = torch.tensor([[[[3.0, 9.0], [0.0, 9.0]], [[4.0, 9.0], [0.0, 9.0]]]])
    valid = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    assert float(known_distance(found, known, valid)) == pytest.approx(2.5, abs=1e-3)
