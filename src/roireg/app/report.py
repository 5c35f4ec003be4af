"""``report``: the page of a saved result, rendered anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from roireg.app.console import Outcome, Session
from roireg.core.files import atomic_path, check_file, check_folder, mark_written, new_folder
from roireg.jobs.files import check_input
from roireg.jobs.options import PicturesOptions, Replace

__all__ = ["ReportOptions", "report"]

PAGE = "report.html"
RECORD = "result.json"


@dataclass(frozen=True, kw_only=True)
class ReportOptions(PicturesOptions):
    """A result folder, and where its images are now."""

    folder: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Result folder of `roireg register`.")]
    fixed: Annotated[Path | None, typer.Option("--fixed", "-f", help="The fixed image, if it is elsewhere now.")] = (
        None
    )
    moving: Annotated[
        Path | None, typer.Option("--moving", "-m", help="The moving image, if it is elsewhere now.")
    ] = None
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file; default OUT_DIR/report.html.")] = None
    replace: Replace = False

    def check(self) -> None:
        """Refuse images that are not there, and a page that cannot be written."""
        images = [path for path in (self.fixed, self.moving) if path is not None]
        for path in (self.folder, *images):
            check_input(path)
        _ = self.pictures
        if self.out is None:
            check_folder(self.folder, names=(PAGE,), record=RECORD)
        else:
            check_file(self.out, inputs=images, replace=self.replace)


def report(session: Session, options: ReportOptions) -> Outcome:
    """Render the report of a saved result again; see the command's help."""
    from roireg.app.stored import stored_result

    stored = stored_result(options.folder)
    page = _page(options, stored)
    if options.out is None:
        with new_folder(options.folder, record=RECORD, keep=True) as folder:
            (folder / PAGE).write_text(page, encoding="utf-8")
    else:
        with atomic_path(options.out) as temporary:
            temporary.write_text(page, encoding="utf-8")
        mark_written(options.out)
    target = options.out or options.folder / PAGE
    session.say(f"written: {escape(str(target))}")
    return Outcome({"report": target})


def _page(options: ReportOptions, stored: Mapping[str, Any]) -> str:
    from roireg.app.summary import metric_of
    from roireg.evaluate import ReportInput, render_report
    from roireg.io import read_pairs
    from roireg.jobs.reading import load_transform

    arguments = stored.get("provenance", {}).get("arguments", {})
    names = ("frame", "level", "page", "channel")
    pictures = PicturesOptions(**{n: getattr(options, n) or arguments.get(n) for n in names}).pictures
    fixed = _image_of(stored, "fixed", options.fixed, pictures[0])
    moving = _image_of(stored, "moving", options.moving, pictures[1])
    pairs = options.folder / "pairs"
    carried = _carried(stored, options.folder, fixed, moving)
    inverse = options.folder / "inverse.h5"
    return render_report(
        ReportInput(
            title=f"{Path(moving.name).name} onto {Path(fixed.name).name}",
            fixed=fixed,
            moving=moving,
            transform=load_transform(options.folder),
            inverse=load_transform(inverse) if inverse.is_file() else None,
            pairs=read_pairs(pairs) if pairs.is_dir() else None,
            verdict=stored["verdict"],
            reasons=stored.get("reasons", []),
            worse=stored.get("worse", []),
            labels=(carried.fixed_labels, carried.moving_labels),
            points=carried.places,
            metrics={name: metric_of(m) for name, m in stored.get("metrics", {}).items()},
            provenance=stored.get("provenance", {}),
        )
    )


def _carried(stored: Mapping[str, Any], folder: Path, fixed: Any, moving: Any) -> Any:
    """Read the label maps and landmarks of a result, as far as they are where they were."""
    from roireg.jobs.register import RegisterJob
    from roireg.jobs.registering import read_carried

    provenance = stored.get("provenance", {})
    files = {name: Path(entry["path"]) for name, entry in provenance.get("inputs", {}).items() if _is_there(entry)}
    job = RegisterJob(
        fixed=Path(fixed.name),
        moving=Path(moving.name),
        out=folder,
        frame=provenance.get("arguments", {}).get("frame"),
        fixed_labels=files.get("fixed_labels"),
        moving_labels=files.get("moving_labels"),
        fixed_points=files.get("fixed_points"),
        moving_points=files.get("moving_points"),
    )
    return read_carried(job, fixed, moving)


def _is_there(entry: Mapping[str, Any]) -> bool:
    """Tell whether labels or landmarks are where they were, unchanged; a page is made without the others."""
    from roireg.io import sha256_of

    path = Path(entry.get("path", ""))
    try:
        return path.is_file() and sha256_of(path) == entry.get("sha256")
    except (OSError, ValueError):  # a name that no file can have
        return False


def _image_of(stored: Mapping[str, Any], side: str, path: Path | None, picture: Mapping[str, Any]) -> Any:
    """Read the image a result was made from, and refuse another one."""
    from roireg.io import read_image
    from roireg.jobs.stored import stored_image

    return read_image(stored_image(stored, side, path), **picture)
