"""The derivatives of a subject: transforms, images, label maps and their sidecars under the names that BIDS gives."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from roireg.cohort.page import render
from roireg.core.background import background
from roireg.core.files import intact_record, new_folder, write_json
from roireg.core.transforms import Chain
from roireg.core.warp import warp
from roireg.io import read_image, read_labels, read_transform, write_image, write_transform
from roireg.jobs.job import code_version

__all__ = ["export_subject"]


def export_subject(
    *, out: str, subject: str, steps: Sequence[Mapping[str, Any]], reference: str, space: str
) -> dict[str, Any]:
    """Write the derivatives of a subject, all of them or none; what is there already is kept.

    Parameters
    ----------
    out : folder of the derivatives; results of registrations are in its ``work/pairs``.
    steps : what was registered, see `roireg.cohort.bids_running`.
    reference : the reference image of the subject, relative to the data set.
    space : name of the space of the template; empty without one.
    """
    place = Path(out)
    record = f"work/records/sub-{subject}.json"
    usable = [s for s in steps if (place / "work/pairs" / s["name"] / "result.json").is_file()]
    stamps = {s["name"]: _stamp(place, s) for s in usable} | {"code": code_version()}
    stamps |= {f"state of {s['name']}": s["pair"]["state"] for s in steps}
    earlier = intact_record(place, record=record)
    if earlier is not None and earlier.get("stamps") == stamps:
        return {"kept": True}
    with new_folder(place, record=record) as folder:
        for step in usable:
            _write_step(place, folder, step, reference)
        across = next((s for s in usable if s["across"]), None)
        if across is not None:
            for step in usable:
                if not step["across"]:
                    _write_chain(place, folder, step, across)
        _write_volumes(folder, subject)
        pairs = [{**s["pair"], "folder": f"sub-{subject}/figures/{s['name']}"} for s in steps]
        page = render(f"sub-{subject}", pairs, folder)
        (folder / f"sub-{subject}.html").write_text(page, encoding="utf-8")
        write_json(folder / record, {"stamps": stamps})
    return {"kept": False}


def _stamp(place: Path, step: Mapping[str, Any]) -> str:
    document = json.loads((place / "work/pairs" / step["name"] / "result.json").read_text(encoding="utf-8"))
    return str(document["stamp"])


def _write_step(place: Path, folder: Path, step: Mapping[str, Any], reference: str) -> None:
    source, target = place / "work/pairs" / step["name"], folder / step["folder"]
    stem, here, to = step["stem"], step["here"], step["to"]
    names = {
        "transform.h5": f"{stem}_from-{here}_to-{to}_mode-image_xfm.h5",
        "inverse.h5": f"{stem}_from-{to}_to-{here}_mode-image_xfm.h5",
        "warped.nii.gz": f"{stem}_space-{to}_desc-roireg_{step['suffix']}.nii.gz",
        "moved_labels.nii.gz": f"{stem}_space-{to}_desc-roireg_dseg.nii.gz",
        "moved_labels_fixed_to_moving.nii.gz": f"{stem}_desc-{to}_dseg.nii.gz",
    }
    for name, derived in names.items():
        if (source / name).is_file():
            _link(source / name, target / derived)
    figures = folder / f"sub-{step['stem'].split('_')[0].removeprefix('sub-')}" / "figures" / step["name"]
    if (source / "report.html").is_file():
        _link(source / "report.html", figures / "report.html")
    picture = place / "work/thumbnails" / f"{step['name']}.jpg"
    if picture.is_file():
        _link(picture, figures / "thumbnail.jpg")
    fixed = step["fixed"] if step["across"] else f"bids:raw:{reference}"
    moving = f"bids:raw:{step['source']}"
    verdict = {"Verdict": step["pair"]["state"], "Reasons": list(step["pair"].get("reasons", ()))}
    for derived, a, b in ((names["transform.h5"], here, to), (names["inverse.h5"], to, here)):
        if (target / derived).is_file():
            _sidecar(target / derived, _direction(a, b) | {"Sources": [moving, fixed]} | verdict)
    for name, what, sources in (
        ("warped.nii.gz", "Image", {"Sources": [moving], "SpatialReference": fixed, "SkullStripped": False}),
        ("moved_labels.nii.gz", "Label map", {"Sources": [moving], "SpatialReference": fixed}),
        ("moved_labels_fixed_to_moving.nii.gz", "Label map", {"Sources": [fixed], "SpatialReference": moving}),
    ):
        if (target / names[name]).is_file():
            description = {"Description": f"{what} brought here by a registration of {here} onto {to}."}
            _sidecar(target / names[name], description | sources | verdict)


def _direction(here: str, to: str) -> dict[str, Any]:
    return {
        "Description": f"Brings images of {here} onto {to}.",
        "Points": f"maps points of {to} to points of {here}",
        "World": "LPS, mm",
        "Format": "ITK composite transform",
    }


def _write_chain(place: Path, folder: Path, step: Mapping[str, Any], across: Mapping[str, Any]) -> None:
    """Write what brings another image of the subject onto the template in one step, and the image there."""
    work = place / "work/pairs"
    parts = [read_transform(work / s["name"] / "transform.h5") for s in (across, step)]
    back = [read_transform(work / s["name"] / "inverse.h5") for s in (step, across)]
    target = folder / step["folder"]
    stem, here, to = step["stem"], step["here"], across["to"]
    sources = {"Sources": [f"bids:raw:{step['source']}", across["fixed"]]}
    for name, transform, a, b in (
        (f"{stem}_from-{here}_to-{to}_mode-image_xfm.h5", Chain(tuple(parts)), here, to),
        (f"{stem}_from-{to}_to-{here}_mode-image_xfm.h5", Chain(tuple(back)), to, here),
    ):
        write_transform(target / name, transform)
        _sidecar(target / name, _direction(a, b) | sources)
    image, grid = read_image(step["moving"], finite=False), read_image(across["fixed"]).grid
    name = f"{stem}_space-{to}_desc-roireg_{step['suffix']}.nii.gz"
    write_image(target / name, warp(image, Chain(tuple(parts)), grid, fill=background(image)))
    description = {
        "Description": f"Image brought here by a registration of {here} onto {to}, by way of the reference."
    }
    _sidecar(target / name, description | sources | {"SpatialReference": across["fixed"], "SkullStripped": False})


def _write_volumes(folder: Path, subject: str) -> None:
    """Write the volumes of the labels that were brought into the space of the subject, mm³."""
    rows = []
    for file in sorted(folder.glob(f"sub-{subject}/**/*_dseg.nii.gz")):
        if "_space-" in file.name:
            continue
        labels = read_labels(file)
        values, counts = np.unique(labels.data.numpy(), return_counts=True)
        voxel = float(np.prod(labels.grid.spacing))
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            if value:
                rows.append([f"sub-{subject}", file.name, int(value), f"{count * voxel:.6g}"])
    if rows:
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t", lineterminator="\n")
        writer.writerows([["participant_id", "file", "label", "volume_mm3"], *rows])
        (folder / f"sub-{subject}" / f"sub-{subject}_desc-roireg_volumes.tsv").write_text(
            text.getvalue(), encoding="utf-8"
        )


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; where the system cannot, a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _sidecar(file: Path, content: Mapping[str, Any]) -> None:
    stem = file.name.removesuffix(".gz").rpartition(".")[0]
    file.with_name(f"{stem}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
