"""MONAI bundles as networks of classes: a folder with configs/inference.json, configs/metadata.json and the weights.

Read are the definition of the network (a class of `monai.networks.nets` and plain values), the steps before it as far
as voxels, axes and intensities go, the window, and the names of the classes. Expressions, which begin with "$", and
references to code are refused: nothing of the folder is run, and of TorchScript only the tensors are read.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roireg.core.errors import InputError, OptionalDependencyError
from roireg.io.documents import read_yaml
from roireg.models.base import LoadReport, ModelCard
from roireg.models.checkpoint import fill, read_tensors
from roireg.models.family import Family
from roireg.models.folders import FolderFormat, read_json
from roireg.models.windows import Scaling, VolumePlan, WindowedNetwork, stretched, to_range, whitened

__all__ = ["FAMILY"]

NETWORKS = (
    "AttentionUnet", "BasicUNet", "BasicUNetPlusPlus", "DynUNet", "HighResNet", "SegResNet", "SegResNetDS",
    "SegResNetDS2", "SwinUNETR", "UNETR", "UNet", "VNet",
)  # fmt: skip
"""Classes of `monai.networks.nets` that answer a volume with logits."""

NEUTRAL = (
    "AddChannel", "CastToType", "CopyItems", "CropForeground", "DeleteItems", "EnsureChannelFirst", "EnsureType",
    "LoadImage", "SelectItems", "ToDevice", "ToTensor",
)  # fmt: skip
"""Steps that change neither voxels nor intensities of what is shown."""

CONFIGS = ("inference.json", "inference.yaml", "inference.yml")
WEIGHTS = ("model.pt", "model.pth", "model.ts")
DEPTH = 20
"""References that may point on to references."""


def _config(folder: Path) -> Path | None:
    return next((p for p in (folder / "configs" / name for name in CONFIGS) if p.is_file()), None)


def _recognise(folder: Path) -> bool:
    return _config(folder) is not None and (folder / "configs" / "metadata.json").is_file()


def _weights(folder: Path) -> Path:
    path = next((p for p in (folder / "models" / name for name in WEIGHTS) if p.is_file()), None)
    if path is None:
        raise InputError(f"{folder}: has none of models/{', models/'.join(WEIGHTS)}; fetch the bundle again")
    return path


def _documents(folder: Path) -> tuple[Path, ...]:
    config = _config(folder)
    assert config is not None
    return config, folder / "configs" / "metadata.json"


def _read(folder: Path, name: str) -> tuple[Any, LoadReport]:
    path, described = _documents(folder)
    config = read_json(path) if path.suffix == ".json" else read_yaml(path)
    metadata = read_json(described)
    try:
        plan = _plan(path, config, metadata)
        names = _names(described, metadata, plan.activation)
        network = _network(path, config)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a MONAI bundle ({type(error).__name__}: {error})") from error
    network.names, network.plan = names, plan
    weights = _weights(folder)
    return network, fill(network, read_tensors(weights), source=weights, name=name)


# -- what a configuration says --------------------------------------------------------------------


def _resolved(value: Any, config: Mapping[str, Any], path: Path, depth: int = 0) -> Any:
    """Return a value with the references in it replaced by what they point to.

    Raises
    ------
    InputError
        When there is an expression in it, or a reference leads nowhere.
    """
    if isinstance(value, str) and value.startswith(("@", "%")) and depth < DEPTH:
        target: Any = config
        for part in value[1:].replace("::", "#").split("#"):
            target = target[int(part) if isinstance(target, list) else part]
        return _resolved(target, config, path, depth + 1)
    if isinstance(value, str) and value.startswith(("$", "@", "%")):
        raise InputError(
            f"{path}: has the expression {value[:60]!r}, which is not evaluated here; write its value instead"
        )
    if isinstance(value, list):
        return [_resolved(v, config, path, depth) for v in value]
    if isinstance(value, dict):
        return {k: _resolved(v, config, path, depth) for k, v in value.items()}
    return value


def _target(part: object) -> str:
    """Return the name of the class that a part of a configuration is of, without its module."""
    return str(part.get("_target_", "")).rpartition(".")[2] if isinstance(part, Mapping) else ""


def _network(path: Path, config: Mapping[str, Any]) -> Any:
    keys = ("network_def", "net_def", "network", "net", "model")
    found = next((config[k] for k in keys if isinstance(config.get(k), Mapping)), None)
    name = _target(found)
    if name.startswith(("VISTA3D", "vista3d")):
        raise InputError(f"{path}: holds VISTA3D; name it as vista3d={path.parents[1]}/models/model.pt")
    if name not in NETWORKS or found is None:
        raise InputError(f"{path}: holds a network {name or 'without a name'}; known here are {', '.join(NETWORKS)}")
    settings = {k: _resolved(v, config, path) for k, v in found.items() if not k.startswith("_")}
    if settings.get("spatial_dims", 3) != 3 or settings.get("in_channels", 1) != 1:
        raise InputError(f"{path}: the network sees slices or several images at once; choose one for single volumes")
    try:
        nets = importlib.import_module("monai.networks.nets")
    except ModuleNotFoundError as error:
        raise OptionalDependencyError(
            'MONAI bundles need the package monai; run pip install "roireg[models]"'
        ) from error
    return getattr(nets, name)(**settings).float()


def _names(path: Path, metadata: Mapping[str, Any], activation: str) -> tuple[str, ...]:
    image = _described(metadata, "inputs")
    if image.get("num_channels", 1) != 1:
        raise InputError(
            f"{path}: the network sees {image['num_channels']} images at once; choose one that sees one image"
        )
    channels = _described(metadata, "outputs").get("channel_def")
    if not channels:
        raise InputError(f"{path}: does not name the classes (network_data_format, outputs, channel_def)")
    names = tuple(str(channels[str(k)]) for k in range(len(channels)))
    first = names[0].lower() == "background"
    if first != (activation == "softmax"):
        raise InputError(
            f"{path}: the first channel is {names[0]!r} under {activation}; with softmax it must be the background, "
            "with sigmoid there must be none"
        )
    return names if first else ("background", *names)


def _described(metadata: Mapping[str, Any], which: str) -> Mapping[str, Any]:
    """Return what is said of the one image that goes in or comes out; nothing where nothing is said."""
    formats: Mapping[str, Any] = metadata.get("network_data_format") or {}
    several: Mapping[str, Mapping[str, Any]] = formats.get(which) or {}
    return next(iter(several.values()), {})


def _plan(path: Path, config: Mapping[str, Any], metadata: Mapping[str, Any]) -> VolumePlan:
    axes: str | None = None
    spacing: tuple[float | None, ...] = (None, None, None)
    scalings: list[Scaling] = []
    for step in _steps(path, config, "preprocessing"):
        name = _target(step)
        if name not in NEUTRAL:
            name = name.removesuffix("d")
        settings = {k: v for k, v in step.items() if k not in ("_target_", "keys")}
        if name == "Orientation":
            # Letters here are those of x, y, z; arrays are stored as z, y, x.
            axes = str(_resolved(settings["axcodes"], config, path))[::-1]
        elif name == "Spacing":
            pixdim = _resolved(settings["pixdim"], config, path)
            pixdim = [pixdim] * 3 if isinstance(pixdim, int | float) else pixdim
            spacing = tuple(float(p) if p > 0 else None for p in pixdim[::-1])
        elif name in INTENSITIES:
            scalings.append(INTENSITIES[name](_resolved(settings, config, path)))
        elif name not in NEUTRAL:
            raise InputError(
                f"{path}: prepares images by {_target(step) or 'something without a name'}, which is not known here; "
                f"known are Orientationd, Spacingd, {', '.join(f'{n}d' for n in INTENSITIES)}"
            )
    activation = "softmax"
    for step in _steps(path, config, "postprocessing"):
        if _target(step) in ("Activations", "Activationsd") and step.get("sigmoid") is True:
            activation = "sigmoid"
    patch, overlap = _window(path, config)
    return VolumePlan(
        spacing=(spacing[0], spacing[1], spacing[2]),
        patch=patch,
        axes=axes,
        scalings=tuple(scalings),
        hounsfield=str(_described(metadata, "inputs").get("modality", "")).upper() == "CT",
        activation="sigmoid" if activation == "sigmoid" else "softmax",
        overlap=overlap,
    )


def _steps(path: Path, config: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """Return the steps of a chain that are done and concern the image; postprocessing may be left out."""
    chain = config.get(key)
    if chain is None:
        return []
    steps = chain.get("transforms") if isinstance(chain, Mapping) else chain
    if isinstance(steps, str) and steps.startswith(("@", "%")):
        target: Any = config
        for part in steps[1:].replace("::", "#").split("#"):
            target = target[int(part) if isinstance(target, list) else part]
        steps = target
    if not isinstance(steps, list) or not all(isinstance(s, Mapping) for s in steps):
        if key == "postprocessing":
            return []
        raise InputError(f"{path}: {key} is no plain list of steps; write the steps out")
    return [s for s in steps if s.get("_disabled_") is not True and s.get("keys") not in ("label", ["label"])]


def _window(path: Path, config: Mapping[str, Any]) -> tuple[tuple[int, int, int], float]:
    inferer = config.get("inferer")
    if _target(inferer) != "SlidingWindowInferer" or not isinstance(inferer, Mapping):
        raise InputError(
            f"{path}: sees images by {_target(inferer) or 'no inferer'}; known here is SlidingWindowInferer"
        )
    roi = _resolved(inferer["roi_size"], config, path)
    sides = [roi] * 3 if isinstance(roi, int) else roi
    if len(sides) != 3 or not all(isinstance(n, int) and 0 < n <= 1024 for n in sides):
        raise InputError(f"{path}: windows of {roi} voxels; expected three sides of 1 to 1024 voxels")
    overlap = float(_resolved(inferer.get("overlap", 0.25), config, path))
    if not 0 <= overlap < 1:
        raise InputError(f"{path}: windows overlap by {overlap}; expected a part from 0 to less than 1")
    return (sides[0], sides[1], sides[2]), overlap


# -- intensities ----------------------------------------------------------------------------------


def _range(s: Mapping[str, Any]) -> Scaling:
    low, high = s.get("b_min"), s.get("b_max")
    return to_range(
        s["a_min"], s["a_max"], 0.0 if low is None else low, 1.0 if high is None else high, clip=bool(s.get("clip"))
    )


def _stretch(s: Mapping[str, Any]) -> Scaling:
    if s.get("factor") is not None:
        raise ValueError("ScaleIntensityd with a factor is not known here")
    return stretched(float(s.get("minv", 0.0)), float(s.get("maxv", 1.0)))


def _whiten(s: Mapping[str, Any]) -> Scaling:
    mean, deviation = s.get("subtrahend"), s.get("divisor")
    if isinstance(mean, Sequence):
        (mean,) = mean
    if isinstance(deviation, Sequence):
        (deviation,) = deviation
    return whitened(nonzero=bool(s.get("nonzero")), mean=mean, deviation=deviation)


def _percentiles(s: Mapping[str, Any]) -> Scaling:
    def scale(data: Tensor) -> Tensor:
        # The quantiles of at most some million values, evenly drawn: torch sorts no more at once.
        values = data.flatten()[:: max(1, data.numel() // 4_000_000)]
        low, high = (float(torch.quantile(values, s[k] / 100)) for k in ("lower", "upper"))
        return to_range(low, high, s["b_min"], s["b_max"], clip=bool(s.get("clip")))(data)

    return scale


INTENSITIES: dict[str, Callable[[Mapping[str, Any]], Scaling]] = {
    "NormalizeIntensity": _whiten,
    "ScaleIntensity": _stretch,
    "ScaleIntensityRange": _range,
    "ScaleIntensityRangePercentiles": _percentiles,
}


FAMILY = Family(
    name="monai-bundle",
    title="MONAI bundle",
    cards=(
        ModelCard(
            name="monai-bundle",
            family="monai-bundle",
            source="https://monai.io/model-zoo.html",
            ndim=3,
            input_size=96,
            notes="any bundle that names classes of single volumes, such as spleen_ct_segmentation: give its path",
        ),
    ),
    model=WindowedNetwork,
    folder=FolderFormat("MONAI bundle", _recognise, _weights, _documents, _read),
)
