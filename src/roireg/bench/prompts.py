"""``python -m roireg.bench.prompts DATA``: whether prompts find the same structure in the other image.

A prompt is put at the centroid of every label of the moving image (see `label_point`), carried to the fixed image,
and what is found there is compared with the label of the fixed image. Labels are for placing and scoring alone.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from roireg.bench.cases import CaseFolder, find_folders
from roireg.bench.methods import source_version
from roireg.bench.prompt_tables import PromptRow, markdown, plot_calibration, write_prompts
from roireg.core.errors import InputError, RoiregError
from roireg.core.grid import Grid
from roireg.core.image import Image
from roireg.core.rois import Prompt, ROISet
from roireg.core.warp import warp
from roireg.io import atomic_path, read_image, read_labels
from roireg.match.carry import Guide
from roireg.match.transfer import TransferOptions
from roireg.pipeline.prompting import PROMPT_PRESETS, PromptSession, PromptSettings

__all__ = ["METHODS", "label_point", "main", "make_parser", "measure"]

SETS = ("acdc_intra", "samreg_lung_slices", "chest_xray_jsrt", "hippocampus")

DEFAULT = PROMPT_PRESETS["default"]


def _changed(**changes: object) -> PromptSettings:
    return replace(DEFAULT, transfer=replace(DEFAULT.transfer, **changes))  # type: ignore[arg-type]


METHODS: dict[str, tuple[PromptSettings, str]] = {
    "default": (DEFAULT, "auto"),
    "auxiliary on": (_changed(rounds=2), "auto"),
    "6 views": (replace(DEFAULT, views=6), "auto"),
    "first answers": (_changed(joint=False), "auto"),
    "first answers: argmax": (_changed(joint=False, place="argmax"), "auto"),
    "first answers: linearised inverse": (_changed(joint=False, place="inverse"), "auto"),
    "guide: same place": (DEFAULT, "identity"),
    "guide: none": (DEFAULT, "none"),
    "promptreg": (PROMPT_PRESETS["promptreg"], "none"),
}
"""Settings and guide that are compared; the quick registration of "auto" is computed once per pair."""


def label_point(mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.float64]:
    """(d,) world centroid of a structure; where that lies outside, the nearest point well inside.

    Well inside is at least a quarter as deep as the deepest point, so that a prompt is not put on a border.
    """
    index = np.argwhere(mask)
    centroid = index.mean(0)
    if mask[tuple(np.round(centroid).astype(int))]:
        return grid.world_from_index(centroid)
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=grid.spacing)[(slice(1, -1),) * mask.ndim]
    deep = index[depth[tuple(index.T)] >= 0.25 * depth.max()]
    nearest = np.square((deep - centroid) * grid.spacing).sum(1).argmin()
    return grid.world_from_index(deep[nearest])


def measure(
    folders: Sequence[CaseFolder], methods: Sequence[str], *, limit: int | None = None, seed: int = 0
) -> Iterator[PromptRow]:
    """Run methods on every label of every pair; yields one row per prompt and method.

    Parameters
    ----------
    methods : names of `METHODS`.
    limit : only the first pairs of every set.

    Raises
    ------
    InputError
        When a method is unknown or a pair has no labels.
    """
    if unknown := [name for name in methods if name not in METHODS]:
        raise InputError(f"unknown method {', '.join(unknown)}; use some of {', '.join(METHODS)}")
    for folder in folders:
        for case in folder.content.pairs[:limit]:
            files = {what: folder.file(case, what) for what in ("fixed", "moving", "fixed_labels", "moving_labels")}
            if files["fixed_labels"] is None or files["moving_labels"] is None:
                raise InputError(f"{folder.path}: pair {case.id!r} has no labels to place prompts in")
            fixed, moving = (read_image(folder.path / getattr(case, side)) for side in ("fixed", "moving"))
            labels = read_labels(files["fixed_labels"]), read_labels(files["moving_labels"])
            encoded: dict[PromptSettings, PromptSession] = {}
            quick: Guide | None = None
            for name in methods:
                settings, guide = METHODS[name]
                key = replace(settings, transfer=TransferOptions(), guide="none")
                if key not in encoded:
                    encoded[key] = PromptSession(fixed, moving, settings=key, seed=seed)
                if guide == "auto":
                    quick = quick or encoded[key].changed(guide="auto").guide
                # Everything is answered here; what would be an abstention is told by the confidence.
                session = encoded[key].changed(
                    transfer=replace(settings.transfer, least_confidence=0.0),
                    guide=None if guide == "auto" else guide,
                )
                if guide == "auto":
                    session.guide = quick
                for row in _rows(session, labels, folder.content.labels or {}):
                    yield replace(row, set=folder.content.name, pair=case.id, method=name)


def _rows(session: PromptSession, labels: tuple[Image, Image], names: Mapping[int, str]) -> Iterator[PromptRow]:
    fixed, moving = (image.data[0] for image in labels)
    shared = sorted(set(torch.unique(fixed).tolist()) & set(torch.unique(moving).tolist()) - {0})
    for label in shared:
        there, here = fixed == label, moving == label
        place = label_point(here.numpy(), session.moving.grid)
        started = time.process_time()
        result = session.answer(Prompt.at(place), side="moving")
        seconds = time.process_time() - started
        answer = result.answers[0]
        source_inside, source_dice, _ = _overlap(answer.regions, here, session.moving.grid)
        inside, overlap, centre = 0.0, 0.0, False
        if answer.pair is not None:
            inside, overlap, centre = _overlap(result.pairs.fixed, there, session.fixed.grid)
        e = answer.evidence
        point = None if answer.found is None else answer.found.points
        yield PromptRow(
            "",
            "",
            names.get(label, str(label)),
            "",
            source_inside,
            source_dice,
            answer.pair is not None,
            point is not None and len(point) > 0 and _at(there, session.fixed.grid, point[0]),
            inside,
            centre,
            overlap,
            answer.confidence,
            answer.pair is not None and answer.confidence >= DEFAULT.transfer.least_confidence,
            0.0 if e is None else e.appearance,
            0.0 if e is None else e.overlap,
            0.0 if e is None else e.returned_overlap,
            float("inf") if e is None else e.returned_distance,
            seconds,
            source_version(),
        )


def _overlap(region: ROISet, truth: torch.Tensor, grid: Grid) -> tuple[float, float, bool]:
    """Share of the first region inside a label, Dice, and whether its centroid is in the label."""
    mask = warp(Image(region.masks[:1].float(), region.grid), None, grid, fill=0.0).data[0] >= 0.5
    shared, size = float((mask & truth).sum()), float(mask.sum())
    overlap = 2 * shared / max(1.0, size + float(truth.sum()))
    return shared / max(1.0, size), overlap, _at(truth, grid, region.centroids[0])


def _at(truth: torch.Tensor, grid: Grid, point: NDArray[np.float64]) -> bool:
    index = np.round(grid.index_from_world(point)).astype(int)
    if (index < 0).any() or (index >= np.array(grid.shape)).any():
        return False
    return bool(truth[tuple(index)])


# -- command --------------------------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(prog="python -m roireg.bench.prompts", description=__doc__)
    parser.add_argument("data", type=Path, help="a case set (a folder with pairs.json) or a folder of case sets")
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated folder names; all: every set")
    parser.add_argument("--methods", default=",".join(METHODS), help=f"comma-separated, of: {', '.join(METHODS)}")
    parser.add_argument("-o", "--out", type=Path, default=Path("out/prompts"), help="folder of the results")
    parser.add_argument("--limit", type=int, help="only the first pairs of every set")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0, help="of guide and views")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = make_parser().parse_args(given)
    torch.set_num_threads(options.threads)
    methods = [m.strip() for m in options.methods.split(",")]
    try:
        names = None if options.sets == "all" else [s.strip() for s in options.sets.split(",")]
        rows: list[PromptRow] = []
        for folder in find_folders(options.data, names):
            for row in measure([folder], methods, limit=options.limit, seed=options.seed):
                rows.append(row)
                print(f"{row.set} {row.pair} {row.method}: {row.label}, Dice {row.dice:.2f}", flush=True)
            # After every set, so that a long run that is stopped has something to show.
            _write(rows, options.out, given)
        print(f"written: {options.out / 'prompts.csv'}, {options.out / 'prompts.md'}")
    except RoiregError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _write(rows: Sequence[PromptRow], out: Path, given: Sequence[str]) -> None:
    write_prompts(out / "prompts.csv", rows)
    notes = (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s).\n\n"
        f"    {shlex.join(['python', '-m', 'roireg.bench.prompts', *given])}"
    )
    page = markdown(rows, notes=notes)
    with atomic_path(out / "prompts.md") as temporary:
        temporary.write_text(page, encoding="utf-8")
    default = [r for r in rows if r.method == "default"]
    if default:
        plot_calibration(default, out / "calibration.png")


if __name__ == "__main__":
    sys.exit(main())
