"""Folders of nnU-Net v2 and MONAI bundles: tiny random networks, saved and loaded as their authors do."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.tiny import randomise
from roireg.core.errors import InputError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.warp import resample
from roireg.models import ClassModel, load, windows
from roireg.models.nnunet_network import NnUNet, UNetPlan
from roireg.models.windows import in_windows
from roireg.segment import ClassSegmenter
from support import make_grid

nets = pytest.importorskip("monai.networks.nets", reason="needs monai")

# Axes that lead to the head, the left and the front.
GRID = make_grid((18, 20, 22), (1.5, 1.0, 1.0), np.array([[0, 1, 0], [0, 0, -1], [1, 0, 0]], float), (3.0, 4.0, 5.0))


def ct(grid: Grid = GRID, seed: int = 0) -> Image:
    data = np.random.default_rng(seed).normal(0, 300, (1, *grid.shape)).astype(np.float32)
    data[0, 0] = -1000
    return Image(torch.from_numpy(data), grid, name="ct")


# -- nnU-Net --------------------------------------------------------------------------------------

CONFIGURATION: dict[str, Any] = {
    "spacing": [1.5, 1.5, 2.0],
    "patch_size": [16, 8, 16],
    "normalization_schemes": ["CTNormalization"],
    "use_mask_for_norm": [False],
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 2,
    "unet_max_num_features": 5,
    "n_conv_per_stage_encoder": [2, 1, 2],
    "n_conv_per_stage_decoder": [1, 2],
    "pool_op_kernel_sizes": [[1, 1, 1], [2, 1, 2], [2, 2, 2]],
    "conv_kernel_sizes": [[3, 1, 3], [3, 3, 3], [3, 3, 3]],
}
PLANS: dict[str, Any] = {
    "dataset_name": "Dataset004_Organs",
    "transpose_forward": [1, 0, 2],
    "image_reader_writer": "NibabelIOWithReorient",
    "foreground_intensity_properties_per_channel": {
        "0": {"mean": 40.0, "std": 150.0, "percentile_00_5": -700.0, "percentile_99_5": 500.0}
    },
    "configurations": {"2d": {"patch_size": [32, 32]}, "3d_fullres": CONFIGURATION},
}
DATASET: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "spleen": 2, "liver": 1, "ignore": 3},
}
RESIDUAL: dict[str, Any] = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    "arch_kwargs": {
        "n_stages": 2,
        "features_per_stage": [2, 3],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [2, 2, 2]],
        "n_blocks_per_stage": [1, 2],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
    },
}


def as_published(network: NnUNet) -> dict[str, torch.Tensor]:
    """Tensors as the package stores them: the encoder twice, parts of blocks twice."""
    state = dict(network.state_dict())
    for name, value in network.state_dict().items():
        part = name.split(".")
        if part[-2] in ("conv", "norm"):
            second = ".".join([*part[:-2], "all_modules", "0" if part[-2] == "conv" else "1", part[-1]])
            state[second] = value
    return state | {f"decoder.{n}": v for n, v in state.items() if n.startswith("encoder.")}


def nnunet(folder: Path, network: NnUNet | None, plans: dict[str, Any] = PLANS, dataset: object = DATASET) -> Path:
    place = folder / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    (place / "fold_0").mkdir(parents=True)
    (place / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    (place / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    if network is not None:
        content = {
            "network_weights": as_published(network),
            "optimizer_state": {},
            "current_epoch": 3,
            "logging": {"losses": [np.float64(0.5), np.float32(0.25)], "name": np.str_("x")},
            "init_args": {"configuration": "3d_fullres", "plans": plans},
            "trainer_name": "nnUNetTrainer",
        }
        torch.save(content, place / "fold_0" / "checkpoint_final.pth")
    return place


@pytest.fixture(scope="module")
def organs(tmp_path_factory) -> tuple[NnUNet, Path]:
    plan = UNetPlan(
        1, 3, (2, 4, 5), ((3, 1, 3), (3, 3, 3), (3, 3, 3)), ((1, 1, 1), (2, 1, 2), (2, 2, 2)), (2, 1, 2), (1, 2)
    )
    network = randomise(NnUNet(plan), seed=1)
    return network, nnunet(tmp_path_factory.mktemp("nnunet"), network)


def test_an_nnunet_folder_is_a_network_of_its_classes(organs):
    network, folder = organs
    model = load(folder, "classes")
    assert isinstance(model, ClassModel) and model.classes == ("liver", "spleen")
    for name, value in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], value)
    shown = model.shown(ct())
    # Axes of the network are y, z, x.
    np.testing.assert_allclose(shown.grid.spacing, (1.5, 1.5, 2.0), rtol=0.15)
    np.testing.assert_allclose(shown.grid.direction, [[0, 0, -1], [0, -1, 0], [1, 0, 0]], atol=1e-9)
    expected = (resample(ct(), shown.grid).data.clamp(-700, 500) - 40) / 150
    torch.testing.assert_close(shown.data, expected)
    with pytest.raises(InputError, match="reads CT in Hounsfield units"):
        model.class_map(ct().with_data(ct().data.abs()))


def test_a_window_as_large_as_the_volume_has_the_answer_of_the_network(organs):
    network, folder = organs
    model = load(folder, "classes")
    data = torch.randn(1, 8, 16, 16)
    with torch.no_grad():
        expected = network(data.permute(0, 2, 1, 3)[None])[0].softmax(0)[1:].permute(0, 2, 1, 3)
        found = model.probabilities(data)
    torch.testing.assert_close(found.float() / 255, expected, atol=0.003, rtol=0)


def test_regions_of_two_images_have_the_names_of_the_classes(organs):
    segmenter = ClassSegmenter(load(organs[1], "classes"))
    regions = segmenter(ct())
    assert set(regions.names) <= {"liver", "spleen"} and len(regions) >= 1 and segmenter.classed


def test_a_residual_encoder_is_computed_block_by_block(tmp_path):
    plan = UNetPlan(1, 3, (2, 3), ((3, 3, 3),) * 2, ((1, 1, 1), (2, 2, 2)), (1, 2), (1,), residual=True)
    network = randomise(NnUNet(plan), seed=2)
    settings = {k: v for k, v in CONFIGURATION.items() if "onv" not in k and "UNet" not in k} | {
        "architecture": RESIDUAL,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [True],
        "patch_size": [8, 8, 8],
    }
    plans = PLANS | {"configurations": {"3d_fullres": settings, "3d_low": {"inherits_from": "3d_fullres"}}}
    model = load(nnunet(tmp_path, network, plans), "classes")
    x = torch.randn(1, 1, 8, 8, 8)

    def unit(part: Any, y: torch.Tensor) -> torch.Tensor:
        return part.norm(part.conv(y))

    leaky = nn.LeakyReLU(0.01)
    with torch.no_grad():
        inner, outer = network.encoder.stages[0].blocks[0], network.encoder.stages[1].blocks
        y = leaky(unit(network.encoder.stem.convs[0], x))
        fine = leaky(unit(inner.conv2, leaky(unit(inner.conv1, y))) + y)
        short = unit(outer[0].skip[1], nn.functional.avg_pool3d(fine, 2))
        y = leaky(unit(outer[0].conv2, leaky(unit(outer[0].conv1, fine))) + short)
        y = leaky(unit(outer[1].conv2, leaky(unit(outer[1].conv1, y))) + y)
        y = torch.cat((network.decoder.transpconvs[0](y), fine), 1)
        y = network.decoder.seg_layers[0](leaky(unit(network.decoder.stages[0].convs[0], y)))
        torch.testing.assert_close(model.network(x), y)
    shown = model.shown(ct()).data
    assert float(shown.mean()) == pytest.approx(0, abs=1e-3) and float(shown.std()) == pytest.approx(1, abs=1e-2)


def changed(part: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return PLANS | {"configurations": {"3d_fullres": part | changes}}


@pytest.mark.parametrize(
    ("plans", "dataset", "words"),
    [
        (changed(CONFIGURATION, UNet_class_name="MambaUNet"), DATASET, "holds a network MambaUNet"),
        (changed(CONFIGURATION, normalization_schemes=["HistogramNorm"]), DATASET, "by HistogramNorm, which is not"),
        (changed(CONFIGURATION, previous_stage="3d_lowres"), DATASET, "needs the answer of another"),
        (changed(CONFIGURATION, patch_size=[16, 16]), DATASET, "3d_fullres sees slices"),
        (changed(CONFIGURATION, n_conv_per_stage_encoder=[2, 1, 900]), DATASET, "more than 64 levels or blocks"),
        (changed(CONFIGURATION, spacing=[1.0]), DATASET, "cannot be read as a network of nnU-Net v2"),
        (PLANS, DATASET | {"channel_names": {"0": "T1", "1": "T2"}}, r"2 images at once \(T1, T2\)"),
        (PLANS, DATASET | {"labels": {"background": 0, "whole": [1, 2]}}, "classes overlap"),
        (PLANS, DATASET, "has no fold_0/checkpoint_final.pth"),
    ],
)
def test_what_is_not_known_of_nnunet_is_refused_by_name(tmp_path, plans, dataset, words):
    place = nnunet(tmp_path, None, plans, dataset)
    if "fold_0" not in words:
        (place / "fold_0" / "checkpoint_final.pth").touch()
    with pytest.raises(InputError, match=words):
        load(place, "classes")


# -- windows --------------------------------------------------------------------------------------


def test_windows_join_without_seams_and_blocks_are_means(monkeypatch):
    data = torch.randn(1, 1, 21, 18, 16)

    def answer(window: torch.Tensor) -> torch.Tensor:
        return torch.cat((window, 2 * window), 1)

    whole = in_windows(data, answer, (8, 8, 8), 2)
    torch.testing.assert_close(whole, torch.cat((data, 2 * data), 1))
    monkeypatch.setattr(windows, "VALUES", 2 * 21 * 18 * 16 // 8)
    blocks = in_windows(data, answer, (8, 8, 8), 2)
    assert blocks.shape == (1, 2, 11, 9, 8)
    torch.testing.assert_close(blocks[:, :1, :10], nn.functional.avg_pool3d(data, 2), atol=1e-5, rtol=1e-4)


# -- MONAI bundles --------------------------------------------------------------------------------

INFERENCE: dict[str, Any] = {
    "imports": ["$import glob"],
    "image_key": "image",
    "network_def": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": "@classes",
        "channels": [2, 4],
        "strides": [2],
        "norm": "batch",
    },
    "classes": 3,
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "@image_key"},
            {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
            {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "@image_key", "pixdim": [2.0, 1.5, 1.0], "mode": "bilinear"},
            {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -57, "a_max": 164, "b_min": 0,
             "b_max": 1, "clip": True},
            {"_target_": "EnsureTyped", "keys": "@image_key"},
        ],
    },
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 8], "overlap": 0.5},
    "postprocessing": {"_target_": "Compose", "transforms": [{"_target_": "Activationsd", "softmax": True}]},
}  # fmt: skip
METADATA: dict[str, Any] = {
    "network_data_format": {
        "inputs": {"image": {"modality": "CT", "num_channels": 1}},
        "outputs": {"pred": {"channel_def": {"0": "background", "1": "spleen", "2": "cyst"}}},
    }
}


def bundle(folder: Path, config: object = INFERENCE, metadata: object = METADATA) -> Path:
    place = folder / "spleen"
    for part in ("configs", "models"):
        (place / part).mkdir(parents=True)
    (place / "configs" / "inference.json").write_text(json.dumps(config), encoding="utf-8")
    (place / "configs" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def spleen(tmp_path_factory) -> tuple[nn.Module, Path]:
    network = randomise(nets.UNet(3, 1, 3, [2, 4], [2], norm="batch"), seed=4)
    folder = bundle(tmp_path_factory.mktemp("bundle"))
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return network, folder


def test_a_bundle_is_a_network_of_its_classes(spleen):
    network, folder = spleen
    model = load(folder, "classes")
    assert model.classes == ("spleen", "cyst")
    shown = model.shown(ct())
    # Stored as z, y, x; the bundle names x, y, z.
    np.testing.assert_allclose(shown.grid.spacing, (1.0, 1.5, 2.0), rtol=0.15)
    np.testing.assert_allclose(shown.grid.direction, [[0, 0, -1], [0, -1, 0], [1, 0, 0]], atol=1e-9)
    expected = ((resample(ct(), shown.grid).data + 57) / 221).clamp(0, 1)
    torch.testing.assert_close(shown.data, expected)
    data = torch.rand(1, 8, 16, 16)
    with torch.no_grad():
        direct = network(data.permute(0, 3, 2, 1)[None])[0].softmax(0)[1:].permute(0, 3, 2, 1)
        torch.testing.assert_close(model.probabilities(data).float() / 255, direct, atol=0.003, rtol=0)
    assert len(ClassSegmenter(model)(ct())) >= 1


def test_a_bundle_with_torchscript_gives_its_tensors_alone(spleen, tmp_path):
    network, folder = spleen
    place = shutil.copytree(folder, tmp_path / "spleen")
    (place / "models" / "model.pt").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated
        torch.jit.trace(network, torch.rand(1, 1, 8, 8, 8)).save(str(place / "models" / "model.ts"))
    scripted, plain = load(place, "classes"), load(folder, "classes")
    for name, value in plain.network.state_dict().items():
        assert torch.equal(scripted.network.state_dict()[name], value)
    assert scripted.key != plain.key


def test_the_key_of_a_folder_tells_its_documents_too(spleen, tmp_path):
    place = shutil.copytree(spleen[1], tmp_path / "spleen")
    path = place / "configs" / "inference.json"
    path.write_text(path.read_text(encoding="utf-8").replace("-57", "-90"), encoding="utf-8")
    assert load(place, "classes").key != load(spleen[1], "classes").key


def put(config: dict[str, Any], *keys: Any) -> dict[str, Any]:
    """Return a configuration with one value replaced: keys from the outside in, the value last."""
    *way, last, value = keys
    copy = json.loads(json.dumps(config))
    part = copy
    for key in way:
        part = part[key]
    part[last] = value
    return copy


STEPS = ("preprocessing", "transforms")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: put(INFERENCE, "network_def", "_target_", "os.system"), "holds a network system"),
        (lambda: put(INFERENCE, "network_def", "_target_", "monai.networks.nets.vista3d132"), "name it as vista3d="),
        (lambda: put(INFERENCE, "network_def", "norm", "$__import__('os').system('x')"), "not evaluated here"),
        (lambda: put(INFERENCE, "network_def", "in_channels", 4), "several images at once"),
        (lambda: put(INFERENCE, *STEPS, 4, {"_target_": "Lambdad"}), "by Lambdad, which is not known"),
        (lambda: put(INFERENCE, *STEPS, 3, "pixdim", "$eval('1')"), "not evaluated here"),
        (lambda: put(INFERENCE, *STEPS, "$@more + @steps"), "no plain list of steps"),
        (lambda: put(INFERENCE, "inferer", "_target_", "SliceInferer"), "sees images by SliceInferer"),
        (lambda: put(INFERENCE, "inferer", "roi_size", [96, -1, 96]), "1 to 1024 voxels"),
        (lambda: put(INFERENCE, "classes", 4), "do(es)? not fit|another shape"),
    ],
)
def test_what_is_not_known_of_a_bundle_is_refused_by_name(spleen, tmp_path, make: Callable[[], Any], words):
    place = bundle(tmp_path, make())
    shutil.copy(spleen[1] / "models" / "model.pt", place / "models")
    with pytest.raises(InputError, match=words):
        load(place, "classes")


def test_intensities_of_a_bundle_are_those_of_monai(tmp_path, spleen):
    from monai import transforms

    values = ct().data
    for name, settings in (
        ("NormalizeIntensity", {"nonzero": True}),
        ("ScaleIntensity", {"minv": -1.0, "maxv": 1.0}),
        ("ScaleIntensityRangePercentiles", {"lower": 1, "upper": 99, "b_min": 0, "b_max": 1, "clip": True}),
        ("ScaleIntensityRange", {"a_min": -100, "a_max": 200, "b_min": 0, "b_max": 2}),
    ):
        from roireg.models.bundle import INTENSITIES

        theirs = torch.as_tensor(getattr(transforms, name)(**settings)(values))
        torch.testing.assert_close(INTENSITIES[name](settings)(values), theirs, atol=1e-4, rtol=1e-4)
