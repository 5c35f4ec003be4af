"""Every setting of a registration, as values that load from and save to YAML, and the presets."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from roireg.core.errors import InputError
from roireg.core.words import SearchRange, TransformType
from roireg.fit import (
    Coarse,
    Convex,
    Deform,
    Instance,
    Published,
    Refine,
    RegionAffine,
    Search,
    StablePoints,
    Stage,
    StageField,
    Velocity,
)
from roireg.fit.search import SearchOptions
from roireg.io import atomic_path
from roireg.io.documents import read_settings
from roireg.io.mistakes import explained
from roireg.io.programs import split_command
from roireg.match import DescriptorWeights
from roireg.models.preprocess import CT_WINDOWS
from roireg.models.profiles import PROFILES
from roireg.pipeline.prompt_settings import PROMPT_PRESETS
from roireg.pipeline.sections import (
    ClassesConfig,
    MatchConfig,
    NetworkConfig,
    PromptConfig,
    Section,
    VerdictConfig,
    known_or_near,
)
from roireg.segment import RegionFilter

_LARGEST = 1e12
"""Of all numbers in settings."""

__all__ = [
    "PRESETS",
    "QUICK",
    "QUICK_FIT",
    "Config",
    "preset",
]


class Config(Section):
    """A whole registration."""

    segment: RegionFilter = RegionFilter()
    network: NetworkConfig = NetworkConfig()
    classes: ClassesConfig = ClassesConfig()
    match: MatchConfig = MatchConfig()
    prompt: PromptConfig = PromptConfig()
    stages: tuple[StageField, ...] = Field(
        (Search(), Velocity()), description="steps to the transform, one after the other"
    )
    verdict: VerdictConfig = VerdictConfig()

    def with_options(self, stage: str, **changes: object) -> Config:
        """Return the same settings with other options for every stage of a name.

        Raises
        ------
        InputError
            When no stage of these settings has that name, or an option does not exist or has an impossible value.
        """
        if all(s.stage != stage for s in self.stages):
            raise InputError(
                f"no stage of these settings is called {stage!r}; theirs are "
                f"{', '.join(s.stage for s in self.stages) or 'none'}"
            )
        stages = [s.model_dump() | changes if s.stage == stage else s for s in self.stages]
        try:
            return self.model_validate(dict(self) | {"stages": stages})
        except ValidationError as error:
            raise InputError(_first_mistake(error)) from None

    def with_type(self, type: TransformType | None = None, search: SearchRange | None = None) -> Config:
        """Return the same settings for one type of transform, and for a search of all rotations.

        Parameters
        ----------
        type : "translation", "rigid", "similarity", "affine" or "homography" (2D) end with that map, refined;
            "deformable" and None keep the stages.
        search : "full" tries every rotation of volumes; "near" and None those within 45 degrees.
        """
        stages = self.stages
        if type is not None and type != "deformable":
            freedom = "affine" if type == "homography" else type
            first = next((s for s in stages if isinstance(s, Search)), Search())
            stages = (
                first.model_copy(update={"affine": first.affine.model_copy(update={"model": freedom})}),
                Refine(type=type),
            )
        if search == "full":
            everywhere = {"exhaustive": SearchOptions(full=True)}
            stages = tuple(s.model_copy(update=everywhere) if isinstance(s, Search) else s for s in stages)
        return self.model_copy(update={"stages": stages})

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Read a YAML file; settings that it leaves out keep their defaults, `preset: NAME` those of a preset.

        Raises
        ------
        InputError
            When the file is missing, not YAML, or has an unknown key or an impossible value (which is named).
        """
        path = Path(path)
        content = read_settings(path)
        try:
            return cls.of(content)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Config:
        """Return the settings that sections and values of a settings file mean, see `load`.

        Raises
        ------
        InputError
            When there is an unknown key or an impossible value (which is named).
        """
        _check_sizes(content)
        changes = dict(content)
        name = str(changes.pop("preset", "default"))
        base = preset(name)
        section = changes.get("network")
        if name in PUBLISHED and isinstance(section, Mapping) and section.get("model") is not None:
            base = PUBLISHED[name]()
        try:
            return cls.model_validate(_merge(base.model_dump(), changes))
        except ValidationError as error:
            raise InputError(_first_mistake(error)) from None

    def with_network(
        self,
        model: str | Path,
        *,
        profile: str = "balanced",
        window: str | tuple[float, float] | None = None,
        points: int | None = None,
        cache: str | Path | None = None,
    ) -> Config:
        """Return the same settings with the regions of a network, compared by its encoder.

        Parameters
        ----------
        model : name or path, see `roireg.models.load`.
        profile, window, points, cache : see `NetworkConfig`.

        Raises
        ------
        InputError
            When profile or window is unknown (the nearest names are suggested) or there is less than one point.
        """
        known_or_near(profile, tuple(PROFILES), what="profile")
        if isinstance(window, str):
            known_or_near(window, (*CT_WINDOWS, "none"), what="window")
        if points is not None and points < 1:
            raise InputError(f"a network is asked at 1 point per side or more, found {points}")
        changes = {"model": str(model), "profile": profile, "window": window, "points": points}
        # Settings fitted to the embedded features give way to those that were published for networks.
        base = next((make() for name, make in PUBLISHED.items() if self == preset(name)), self)
        network = base.network.model_copy(update=changes | {"cache": None if cache is None else str(cache)})
        return base.model_copy(
            update={"network": network, "match": base.match.model_copy(update={"features": "model"})}
        )

    def with_classes(self, segmenter: str | Path | None = None, *, command: str | None = None) -> Config:
        """Return the same settings with the classes of a segmenter as regions, which correspond by their names.

        Parameters
        ----------
        segmenter : network that names classes: name or path, see `roireg.models.load`.
        command : program that writes a label map instead, see `roireg.io.programs.label_with`.

        Raises
        ------
        InputError
            When both are given or none, or the command does not name {image} and {labels}.
        """
        if (segmenter is None) == (command is None):
            raise InputError("classes come from a segmenter or from a command; give one of them")
        if command is not None:
            split_command(command)
        classes = ClassesConfig(segmenter=None if segmenter is None else str(segmenter), command=command)
        return self.model_copy(update={"classes": classes})

    def save(self, path: str | Path) -> None:
        """Write every setting as YAML."""
        with atomic_path(path) as temporary:
            temporary.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def _merge(base: dict[str, Any], changes: dict[Any, Any]) -> dict[str, Any]:
    """Replace leaf by leaf, so that a file may set one value of a section.

    A list of stages replaces that of the preset; a mapping changes options of its stages, by their names.
    """
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if key == "stages" and isinstance(old, list | tuple) and isinstance(value, dict):
            names: list[str] = [stage["stage"] for stage in old]
            unknown = [name for name in value if name not in names]
            if unknown:
                raise InputError(
                    f"the preset has no stage {unknown[0]!r}, only {', '.join(names)}; to have others, write "
                    "`stages:` as a list, each with its name as `- stage: NAME`"
                )
            wrong = [name for name in names if not isinstance(value.get(name) or {}, dict)]
            if wrong:
                found = reprlib.repr(value[wrong[0]])
                raise InputError(
                    f"setting 'stages.{wrong[0]}' must be a section with values of its own, found {found}"
                )
            merged[key] = [_merge(stage, value.get(name) or {}) for name, stage in zip(names, old, strict=True)]
        elif isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


def _check_sizes(content: object) -> None:
    """Refuse numbers that no setting can have, whatever it is: they overflow single precision, or a loop."""
    if isinstance(content, Mapping | list | tuple):
        for value in content.values() if isinstance(content, Mapping) else content:
            _check_sizes(value)
    elif isinstance(content, int | float) and abs(content) > _LARGEST and abs(content) != math.inf:
        raise InputError(f"the number {reprlib.repr(content)} is too large for a setting; correct it")


def _first_mistake(error: ValidationError) -> str:
    """Return the first thing that is wrong with settings, in one sentence."""
    problems: Sequence[Mapping[str, Any]] = error.errors()
    if problems[0]["type"] == "stage_option":
        # The place in the list, then the place in the stage.
        problems = [{**p, "loc": (problems[0]["loc"][0], *p["loc"])} for p in problems[0]["ctx"]["problems"]]
    if problems[0]["type"] == "extra_forbidden":
        where = ".".join(map(str, problems[0]["loc"]))
        return f"unknown setting {where[:80]!r}; `roireg info --presets` lists all"
    return explained(problems, "setting '{}'")


def _regions_alone() -> tuple[Stage, ...]:
    return (
        RegionAffine(least_span=0.5),
        Velocity(
            features=None,
            correlation_weight=0,
            feature_weight=0,
            region_weight=1,
            max_regions=256,
            max_voxels=150_000,
        ),
    )


def _regions() -> Config:
    """Return the transform that pairs of regions alone give, without weights and without an image term.

    Regions of all sizes, whole in 3D, compared by descriptors and the anatomical embedding; pairs are each other's
    best and agree with one map.
    """
    return Config(
        segment=RegionFilter(min_fraction=0.0005, max_fraction=0.5, max_overlap=None, max_count=128),
        match=MatchConfig(weights=DescriptorWeights(embedding=5.0)),
        stages=_regions_alone(),
    )


def _samreg() -> Config:
    """Return SAMReg for the embedded regions and features (Huang et al., MICCAI 2024); see `_published_samreg`.

    Cosines of the embedded features do not tell regions apart (nearly all are above 0.8) and slices say nothing of z,
    so without a network its steps are taken as in `regions`. docs/explanation.md compares the settings one by one.
    """
    return _regions()


def _published_samreg() -> Config:
    """Return the settings of the paper, which `samreg` takes with a network.

    Area fractions 0.5-17.5 %, overlap 0.9, cosine of prototypes, one-to-one, epsilon 0.8, slice range 11; masks of a
    network with a predicted IoU and a stability of at least 0.9.
    """
    return Config(
        network=NetworkConfig(pred_iou_thresh=0.9, stability_score_thresh=0.9),
        segment=RegionFilter(min_fraction=0.005, max_fraction=0.175, max_overlap=0.9),
        match=MatchConfig(
            position=0.7,
            similarity="cosine",
            assignment="greedy",
            threshold=0.8,
            geometric=False,
            slices=True,
            slice_range=11,
        ),
        stages=_regions_alone(),
    )


def _promptreg() -> Config:
    """Return PromptReg for the embedded regions and features (Huang et al., 2025): eight random prompts.

    They are expected where a quick registration says, and each region and its counterpart are chosen together.
    """
    return Config(prompt=PromptConfig(count=8), stages=_regions_alone())


def _published_promptreg() -> Config:
    """Return the settings of the paper, which `promptreg` takes with a network.

    Four random prompts, first answers, linearised inverse, six views, no gate; see
    `roireg.pipeline.prompt_settings.PROMPT_PRESETS`.
    """
    return Config(prompt=PromptConfig(count=4, settings=PROMPT_PRESETS["promptreg"]), stages=_regions_alone())


PUBLISHED: dict[str, Callable[[], Config]] = {"samreg": _published_samreg, "promptreg": _published_promptreg}
"""What presets become where a network takes the place of the embedded regions and features."""


QUICK_FIT = Velocity(levels=2, max_voxels=20_000, iterations=(40, 30))
"""A coarse deformation, enough to say where things are to be expected."""

QUICK = Config(stages=(Search(), QUICK_FIT), verdict=VerdictConfig(probability=False))
"""The registration that guides prompts: the global start of the default preset and a coarse deformation."""


def _paper() -> Config:
    """Return SAMReg with the settings and the objective that it was released with, to compare with."""
    return _published_samreg().model_copy(update={"stages": (RegionAffine(), Published())})


SAME_FEATURES = ("mind", "intensity")
"""What the stages of SAME++ compare where no anatomical embedding is named."""


def _same() -> Config:
    """Return SAME++ (Tian et al., 2023): points, affine map, coarse field, instance optimisation.

    A trained deformation network takes part where `deform` has weights; docs/same.md says what differs from the
    paper.
    """
    last = Instance(features=SAME_FEATURES, distance="cosine")
    return Config(stages=(StablePoints(features=SAME_FEATURES), Coarse(), Deform(weights=None), last))


def _same_convex() -> Config:
    """Return the variant of SAME++ without training: a convex search in place of coarse field and network."""
    last = Instance(features=SAME_FEATURES, distance="cosine")
    search = Convex(features=SAME_FEATURES, reach=(6, 3))
    return Config(stages=(StablePoints(features=SAME_FEATURES), search, last))


PRESETS: dict[str, Callable[[], Config]] = {
    "default": Config,
    "regions": _regions,
    "samreg": _samreg,
    "promptreg": _promptreg,
    "paper": _paper,
    "same": _same,
    "same-convex": _same_convex,
}
"""Named settings: `default` (regions for the large motion, dense features for the rest), `regions` alone, `samreg`,
`promptreg`, `paper`, `same`, `same-convex`."""


def preset(name: str) -> Config:
    """Return the settings of a preset.

    Raises
    ------
    InputError
        When there is no preset of that name.
    """
    if name not in PRESETS:
        raise InputError(f"there is no preset {name!r}; use one of {', '.join(PRESETS)}")
    return PRESETS[name]()
