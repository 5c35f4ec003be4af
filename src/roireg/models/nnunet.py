"""Folders of nnU-Net v2 (Isensee et al., Nature Methods 2021) and TotalSegmentator as networks of classes.

Read are plans.json (voxels, intensities, sizes of the network), dataset.json (names of the classes) and the weights
of one fold. Not done as nnU-Net does: volumes are resampled linearly instead of by cubic splines, intensities are
scaled after that and not before, there are no mirror images, and one fold stands for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roireg.core.errors import InputError
from roireg.models.base import LoadReport, ModelCard
from roireg.models.checkpoint import fill, read_tensors
from roireg.models.family import Family
from roireg.models.folders import FolderFormat, read_json
from roireg.models.nnunet_network import NnUNet, Triple, UNetPlan
from roireg.models.windows import Scaling, VolumePlan, WindowedNetwork, clipped, stretched, whitened

__all__ = ["FAMILY"]

NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")
MOST = 64
"""Most levels of a network, and blocks of a level."""


def _recognise(folder: Path) -> bool:
    return (folder / "plans.json").is_file() and (folder / "dataset.json").is_file()


def _weights(folder: Path) -> Path:
    """Return the checkpoint of the one fold that is used: `fold_all`, else the first."""
    for fold in ("fold_all", *(f"fold_{k}" for k in range(10))):
        for name in ("checkpoint_final.pth", "checkpoint_best.pth"):
            if (folder / fold / name).is_file():
                return folder / fold / name
    raise InputError(f"{folder}: has no fold_0/checkpoint_final.pth; name the folder that holds the folds")


def _read(folder: Path, name: str) -> tuple[NnUNet, LoadReport]:
    plans, dataset = read_json(folder / "plans.json"), read_json(folder / "dataset.json")
    try:
        settings = _configuration(folder, plans)
        names = _names(folder, dataset)
        volume = _volume(folder, plans, settings)
        plan = _network(folder, settings, len(names))
        with torch.device("meta"):
            network = NnUNet(plan)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder}: cannot be read as a network of nnU-Net v2 ({type(error).__name__}: {error}); fetch it again"
        ) from error
    network.names, network.plan = names, volume
    path = _weights(folder)
    return network, fill(network, _own(read_tensors(path)), source=path, name=name)


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the second names that the package stores the same tensors under."""
    plain = {name.removeprefix("_orig_mod."): value for name, value in tensors.items()}
    return {k: v for k, v in plain.items() if ".all_modules." not in k and not k.startswith("decoder.encoder.")}


def _configuration(folder: Path, plans: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the network for volumes that the folder is named after, or of the only one."""
    configurations = plans["configurations"]
    named = folder.resolve().name.rpartition("__")[2]
    volumes = [k for k, v in configurations.items() if len(_inherited(configurations, v).get("patch_size", ())) == 3]
    if named not in configurations and len(volumes) != 1:
        raise InputError(
            f"{folder}: plans.json has the configurations {', '.join(configurations)}, and the folder does not say "
            "which this is; let its name end as that of nnU-Net does, such as __3d_fullres"
        )
    chosen = named if named in configurations else volumes[0]
    settings = _inherited(configurations, configurations[chosen])
    if chosen not in volumes:
        raise InputError(f"{folder}: the configuration {chosen} sees slices; name the folder of one for volumes")
    if settings.get("previous_stage"):
        raise InputError(
            f"{folder}: the configuration {chosen} needs the answer of another one; name that of 3d_fullres"
        )
    return settings


def _inherited(configurations: Mapping[str, Any], settings: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    parent = settings.get("inherits_from")
    if parent is None or depth > len(configurations):
        return dict(settings)
    return _inherited(configurations, configurations[parent], depth + 1) | dict(settings)


def _names(folder: Path, dataset: Mapping[str, Any]) -> tuple[str, ...]:
    channels = dataset.get("channel_names") or dataset["modality"]
    if len(channels) != 1:
        raise InputError(
            f"{folder}: the network sees {len(channels)} images at once ({', '.join(map(str, channels.values()))}); "
            "choose one that sees one image"
        )
    labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    if any(not isinstance(value, int) for value in labels.values()):
        raise InputError(
            f"{folder}: the classes overlap (regions_class_order), which is not read here; choose another"
        )
    if sorted(labels.values()) != list(range(len(labels))):
        raise InputError(f"{folder}/dataset.json: labels are {sorted(labels.values())} and not 0, 1, 2 and so on")
    return tuple(sorted(labels, key=lambda name: labels[name]))


def _volume(folder: Path, plans: Mapping[str, Any], settings: Mapping[str, Any]) -> VolumePlan:
    order = tuple(int(k) for k in plans["transpose_forward"])
    if sorted(order) != [0, 1, 2]:
        raise InputError(f"{folder}/plans.json: transpose_forward is {list(order)}, no order of three axes")
    spacing: list[float | None] = [None, None, None]
    for axis, length in zip(order, settings["spacing"], strict=True):
        spacing[axis] = float(length)
    known = plans.get("foreground_intensity_properties_per_channel", {}).get("0", {})
    (scheme,), (masked,) = settings["normalization_schemes"], settings["use_mask_for_norm"]
    reader = str(plans.get("image_reader_writer", ""))
    # TotalSegmentator turns images so before it hands them to nnU-Net.
    turned = reader.endswith("WithReorient") or "TotalSegmentator" in str(plans.get("dataset_name", ""))
    a, b, c = (int(n) for n in settings["patch_size"])
    return VolumePlan(
        spacing=(spacing[0], spacing[1], spacing[2]),
        patch=(a, b, c),
        axes="SAR" if turned else None,
        order=(order[0], order[1], order[2]),
        scalings=_scalings(folder, str(scheme), bool(masked), known),
        hounsfield=scheme == "CTNormalization",
    )


def _scalings(folder: Path, scheme: str, masked: bool, known: Mapping[str, float]) -> tuple[Scaling, ...]:
    if scheme == "CTNormalization":
        return (
            clipped(float(known["percentile_00_5"]), float(known["percentile_99_5"])),
            whitened(nonzero=False, mean=float(known["mean"]), deviation=float(known["std"])),
        )
    if scheme == "ZScoreNormalization":
        return (whitened(nonzero=masked),)
    if scheme == "RescaleTo01Normalization":
        return (stretched(0.0, 1.0),)
    if scheme == "NoNormalization":
        return ()
    raise InputError(
        f"{folder}: scales intensities by {scheme}, which is not known here; known are CTNormalization, "
        "ZScoreNormalization, RescaleTo01Normalization and NoNormalization"
    )


def _network(folder: Path, settings: Mapping[str, Any], classes: int) -> UNetPlan:
    """Return the sizes of a network from plans of either form: of nnU-Net 2.0 to 2.2, or since 2.3."""
    if "architecture" in settings:
        kind = settings["architecture"]["network_class_name"].rpartition(".")[2]
        sizes = dict(settings["architecture"]["arch_kwargs"])
        parts = {"conv_op": "Conv3d", "norm_op": "InstanceNorm3d", "nonlin": "LeakyReLU"}
        for key, expected in parts.items():
            if str(sizes.get(key)).rpartition(".")[2] != expected:
                raise InputError(f"{folder}: the network has {key} {sizes.get(key)}; only {expected} is known here")
    else:
        kind = settings["UNet_class_name"]
        strides = settings["pool_op_kernel_sizes"]
        sizes = {
            "features_per_stage": [
                min(settings["UNet_base_num_features"] * 2**k, settings["unet_max_num_features"])
                for k in range(min(len(strides), MOST))
            ],
            "kernel_sizes": settings["conv_kernel_sizes"],
            "strides": strides,
            "n_conv_per_stage": settings["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": settings["n_conv_per_stage_decoder"],
        }
    if kind not in NETWORKS:
        raise InputError(f"{folder}: holds a network {kind}; known here are {' and '.join(NETWORKS)}")
    residual = kind == "ResidualEncoderUNet"
    blocks = sizes["n_blocks_per_stage" if residual else "n_conv_per_stage"]
    count = len(sizes["strides"])
    encoder, decoder = _counts(blocks, count), _counts(sizes["n_conv_per_stage_decoder"], count - 1)
    if max(count, *encoder, *decoder) > MOST:
        raise InputError(f"{folder}/plans.json: more than {MOST} levels or blocks; fetch the model again")
    return UNetPlan(
        channels=1,
        classes=classes,
        features=tuple(int(n) for n in sizes["features_per_stage"]),
        kernels=_triples(sizes["kernel_sizes"]),
        strides=_triples(sizes["strides"]),
        encoder=encoder,
        decoder=decoder,
        residual=residual,
        bias=bool(sizes.get("conv_bias", True)),
        eps=float((sizes.get("norm_op_kwargs") or {}).get("eps", 1e-5)),
    )


def _counts(value: int | Sequence[int], levels: int) -> tuple[int, ...]:
    return (value,) * levels if isinstance(value, int) else tuple(int(n) for n in value)


def _triples(values: Sequence[int | Sequence[int]]) -> tuple[Triple, ...]:
    whole = [(v, v, v) if isinstance(v, int) else v for v in values]
    return tuple((int(a), int(b), int(c)) for a, b, c in whole)


FAMILY = Family(
    name="nnunet",
    title="nnU-Net",
    cards=(
        ModelCard(
            name="nnunet",
            family="nnunet",
            source="https://github.com/MIC-DKFZ/nnUNet",
            code_licence="Apache-2.0",
            ndim=3,
            input_size=128,
            notes="any folder of nnU-Net v2 or TotalSegmentator that holds plans.json and fold_0: give its path",
        ),
    ),
    model=WindowedNetwork,
    folder=FolderFormat(
        "nnU-Net v2",
        _recognise,
        _weights,
        lambda folder: (folder / "plans.json", folder / "dataset.json"),
        _read,
    ),
)
