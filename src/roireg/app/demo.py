"""``demo``: a phantom pair with a known deformation, registered as any other pair, and the true error."""

from __future__ import annotations

from pathlib import Path

from roireg.app.console import Outcome, Session
from roireg.app.results import say_registration
from roireg.app.summary import escape, metric_table
from roireg.core.files import check_folder, new_folder
from roireg.core.transforms import DisplacementField
from roireg.evaluate import Truth, score
from roireg.io import PointSet, write_image, write_labels, write_points, write_transform
from roireg.jobs import RegisterJob
from roireg.synth import SyntheticPair, as_raster, make_pair

__all__ = ["demo"]

SHAPE_3D = (48, 72, 96)
"""Coarser than the default of the generator, so that people see a volume soon."""


def demo(session: Session, out: Path, *, volume: bool, seed: int) -> Outcome:
    """Make, register and judge a phantom pair; see the command's help."""
    check_folder(out)
    pair = make_pair(3, seed=seed, shape=SHAPE_3D) if volume else as_raster(make_pair(2, seed=seed))
    inputs = _write_inputs(out / "inputs", pair)
    job = RegisterJob(
        out=out,
        fixed=inputs["fixed"],
        moving=inputs["moving"],
        fixed_labels=inputs["fixed_labels"],
        moving_labels=inputs["moving_labels"],
        fixed_points=inputs["fixed_points"],
        moving_points=inputs["moving_points"],
        seed=seed,
    )
    session.say(f"made a phantom pair in {escape(str(out / 'inputs'))}; now the same as")
    session.say(f"  [bold]roireg register {escape(f'{job.fixed} {job.moving} -o {out}')}[/]\n")
    job_result = session.run(job)
    outcome, result = say_registration(session, job, job_result), job_result.value
    body = pair.fixed_labels.data[0] != 0
    scores = score(result.transform, Truth(pair.fixed.grid, pair.fixed.unit, transform=pair.transform, mask=body))
    truth = {name: value for name, value in scores.metrics.items() if name.startswith("displacement_error")}
    session.say("\ntrue error, known because the deformation was made here:")
    session.say(metric_table(truth))
    measured = {name: m.as_dict() for name, m in truth.items()}
    return Outcome({**outcome.document, "truth": measured}, outcome.exit_code)


def _write_inputs(folder: Path, pair: SyntheticPair) -> dict[str, Path]:
    """Write images, label maps, landmarks and the true transform; return their paths by name."""
    kind = ".png" if pair.fixed.unit == "px" else ".nii.gz"
    paths = {name: folder / f"{name}{kind}" for name in ("fixed", "moving", "fixed_labels", "moving_labels")}
    paths |= {name: folder / f"{name}.csv" for name in ("fixed_points", "moving_points")}
    paths["truth"] = folder / "true_transform.h5"
    grid = pair.fixed.grid
    with new_folder(folder) as temporary:
        write_image(temporary / paths["fixed"].name, pair.fixed)
        write_image(temporary / paths["moving"].name, pair.moving)
        write_labels(temporary / paths["fixed_labels"].name, pair.fixed_labels)
        write_labels(temporary / paths["moving_labels"].name, pair.moving_labels)
        write_points(temporary / "fixed_points.csv", PointSet(pair.fixed_points))
        write_points(temporary / "moving_points.csv", PointSet(pair.moving_points))
        # Closed form in memory, sampled at the voxels of the fixed image in the file.
        sampled = DisplacementField(grid, pair.transform.displacement_on(grid))
        write_transform(temporary / paths["truth"].name, sampled)
    return paths
