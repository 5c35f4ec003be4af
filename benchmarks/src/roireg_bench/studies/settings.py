"""Studies that vary the settings of a registration, as YAML files.

    title: how alike a pair must be
    source: SAMReg, table 4
    sets: [samreg_cardiac_slices, acdc_intra]
    preset: regions
    sweep: {match.threshold: [0.1, 0.2, 0.4]}

or, instead of `sweep`, `variants` by name, each with any of `preset`, `settings`, `type` and `regions`:

    variants:
      regions of the image: {preset: regions}
      label maps: {preset: regions, regions: labels}
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from roireg.core.errors import InputError
from roireg.core.image import Image
from roireg.core.transforms import Transform
from roireg.core.warp import warp
from roireg.core.words import TransformType
from roireg.evaluate import score
from roireg.io.documents import read_yaml
from roireg.io.mistakes import explained
from roireg.pipeline import Config, register
from roireg_bench.scoring import numbers
from roireg_bench.studies.study import Column, Scene, Study

__all__ = ["SettingsStudy", "StudyFile", "Variant", "centroid_distances"]


class Variant(BaseModel):
    """One way to register.

    Attributes
    ----------
    preset : named settings to begin with. settings : changes of them, as in a settings file.
    type : type of transform, as in `roireg.register`.
    regions : "found" in the images, or the "labels" of the case: an oracle, since results are scored with them.
    prompts : "anywhere", or "inside" or "outside" the labels of the moving image, an oracle as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = "default"
    settings: dict[str, Any] = Field(default_factory=dict)
    type: TransformType | None = None
    regions: Literal["found", "labels"] = "found"
    prompts: Literal["anywhere", "inside", "outside"] = "anywhere"

    @property
    def config(self) -> Config:
        """The settings of the registration."""
        where = {} if self.prompts == "anywhere" else {"prompt": {"where": self.prompts}}
        return Config.of(_joined({"preset": self.preset, **self.settings}, where))


class StudyFile(BaseModel):
    """The content of a file; what variants do not say themselves is taken from `preset` and `settings`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    source: str = ""
    sets: tuple[str, ...] = ()
    preset: str = "default"
    settings: dict[str, Any] = Field(default_factory=dict)
    sweep: dict[str, list[Any]] = Field(default_factory=dict)
    variants: dict[str, dict[str, Any] | None] = Field(default_factory=dict)


class SettingsStudy(Study):
    """A study of a settings file: every variant registers every pair and is scored like any method."""

    columns = (
        Column("dice_mean", "Dice"),
        Column("centroid_error_mean", "centroid error", 2),
        Column("centroid_error_rms", "RMS centroid error", 2),
        Column("landmark_error_mean", "landmark error", 2),
        Column("folding_percent", "folding %", 4),
        Column("pairs", "pairs", 1),
        Column("seconds", "CPU s", 1),
    )

    def __init__(self, name: str, content: StudyFile) -> None:
        self.name, self.title, self.source, self.sets = name, content.title, content.source, content.sets
        self.axis = next(iter(content.sweep)).rpartition(".")[2] if len(content.sweep) == 1 else None
        self.members = {
            variant: Variant.model_validate({"preset": content.preset} | values | {"settings": settings})
            for variant, values, settings in _expanded(content)
        }
        for variant in self.members.values():
            _ = variant.config  # Mistakes are told before anything is measured.

    @classmethod
    def load(cls, path: Path) -> SettingsStudy:
        """Read a file.

        Raises
        ------
        InputError
            When the file is missing, no study, or a setting does not exist or has an impossible value.
        """
        if not path.is_file():
            raise InputError(f"{path}: there is no such file; expected the settings of a study")
        content = read_yaml(path)
        try:
            study = StudyFile.model_validate(content)
            if bool(study.sweep) == bool(study.variants):
                raise InputError("a study has either a `sweep` or `variants`")
            return cls(path.stem, study)
        except ValidationError as error:
            raise InputError(f"{path}: {explained(error.errors())}") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @property
    def variants(self) -> Mapping[str, Mapping[str, object]]:
        return {
            name: {
                "config": v.config.model_dump(mode="json"),
                "type": v.type,
                "regions": v.regions,
                "prompts": v.prompts,
            }
            for name, v in self.members.items()
        }

    def measure(self, variant: str, scene: Scene) -> Mapping[str, float]:
        chosen = self.members[variant]
        fixed, moving = scene.fixed, scene.moving
        labels: tuple[Image, Image] | tuple[None, None] = (None, None)
        if scene.truth.labels is not None:
            labels = scene.truth.labels
        elif chosen.regions == "labels" or chosen.prompts != "anywhere":
            raise InputError(f"{scene.case.id}: the variant {variant!r} needs label maps, and the case has none")
        rois = labels if chosen.regions == "labels" else (None, None)
        started = time.process_time()
        result = register(
            fixed,
            moving,
            config=chosen.config,
            type=chosen.type,
            fixed_rois=rois[0],
            moving_rois=rois[1],
            moving_mask=None if chosen.prompts == "anywhere" else labels[1],
            device="cpu",
        )
        seconds = time.process_time() - started
        return {**self._scores(result.transform, scene), "pairs": len(result.pairs.active), "seconds": seconds}

    def before(self, scene: Scene) -> Mapping[str, float]:
        return self._scores(None, scene)

    @staticmethod
    def _scores(transform: Transform | None, scene: Scene) -> dict[str, float]:
        values = numbers(scene.truth.baseline if transform is None else score(transform, scene.truth))
        if scene.truth.labels is not None:
            distances = centroid_distances(*scene.truth.labels, transform)
            if len(distances):
                values["centroid_error_mean"] = float(distances.mean())
                values["centroid_error_rms"] = float(np.sqrt(np.square(distances).mean()))
        return values


def centroid_distances(fixed: Image, moving: Image, transform: Transform | None) -> np.ndarray[Any, Any]:
    """(K,) distances of the centroids of fixed and moved labels, in world units: the target registration error.

    SAMReg (journal version) and PromptReg take the mean over labels, SAMReg at MICCAI the root of the mean square.
    Labels that the transform loses have no centroid and are left out.
    """
    moved = warp(moving.with_data(moving.data.float()), transform, fixed.grid, mode="nearest", fill=0.0).data[0]
    distances = []
    for label in torch.unique(fixed.data).tolist():
        places = [torch.nonzero(data == label).double().numpy() for data in (fixed.data[0], moved)]
        if label != 0 and all(map(len, places)):
            a, b = (fixed.grid.world_from_index(p.mean(0)) for p in places)
            distances.append(float(np.linalg.norm(a - b)))
    return np.array(distances)


def _expanded(content: StudyFile) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, own values and settings of every variant."""
    if content.sweep:
        keys = list(content.sweep)
        result: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        for combination in product(*content.sweep.values()):
            settings = content.settings
            for key, value in zip(keys, combination, strict=True):
                settings = _with(settings, key.split("."), value)
            shown = [str(v) if v is not None else "none" for v in combination]
            names = (
                shown if len(keys) == 1 else [f"{k.rpartition('.')[2]} {v}" for k, v in zip(keys, shown, strict=True)]
            )
            result.append((", ".join(names), {}, settings))
        return result
    expanded = []
    for name, given in content.variants.items():
        values = dict(given or {})
        settings = content.settings
        for key, value in (values.pop("settings", None) or {}).items():
            settings = _joined(settings, {key: value})
        expanded.append((name, values, settings))
    return expanded


def _with(settings: Mapping[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    """Return settings with one value, named by its keys from the outside in."""
    inner = value if len(keys) == 1 else _with(settings.get(keys[0]) or {}, keys[1:], value)
    return {**settings, keys[0]: inner}


def _joined(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Return a with what b changes, section by section."""
    both = {k: _joined(a[k], v) for k, v in b.items() if isinstance(v, Mapping) and isinstance(a.get(k), Mapping)}
    return {**a, **b, **both}
