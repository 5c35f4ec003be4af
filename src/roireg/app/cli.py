"""The commands: what they are called, what they take and what their help says.

Work is done in the modules beside this one, imported when a command runs: `roireg --help` needs no torch.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from roireg import __version__
from roireg.app.console import Outcome, Session, command
from roireg.app.info_options import InfoOptions
from roireg.app.models import models_app
from roireg.app.plugins import ExtensibleGroup
from roireg.app.report import ReportOptions
from roireg.app.report import report as write_report
from roireg.app.streams import open_streams
from roireg.app.train import train_app
from roireg.app.view import ServeOptions, ViewOptions
from roireg.app.view import serve as serve_pairs
from roireg.app.view import view as view_pair
from roireg.cohort import BidsJob, CohortJob, TemplateJob
from roireg.jobs import ApplyJob, ConvertJob, EvaluateJob, MatchJob, PromptJob, RegisterJob, SegmentJob

__all__ = ["app", "main"]

app = typer.Typer(
    name="roireg",
    cls=ExtensibleGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"roireg {__version__}")
        raise typer.Exit


@app.callback(
    help="Register two images by corresponding regions of interest.\n\n"
    "Start with `roireg demo`, then `roireg register FIXED MOVING -o out`. Images are NIfTI, NRRD, MetaImage, DICOM "
    "folders, PNG, JPEG or TIFF, 2D or 3D. World coordinates are LPS millimetres, pixels (column, row) for PNG, JPEG "
    "and TIFF.\n\n"
    "Exit codes: 0 done, 2 a mistake in the input (one line says which, nothing is written), 3 the registration "
    "failed by its own verdict (outputs are written).\n\n\b\nExample:\n  roireg register fixed.nii.gz moving.nii.gz "
    "-o out"
)
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself."""


# -- commands -------------------------------------------------------------------------------------


@command(
    app,
    "register",
    example="""
    roireg register fixed.nii.gz moving.nii.gz -o out
    roireg register -f ct.nii.gz -m mr/ -o out --fixed-labels ct_seg.nii.gz --moving-labels mr_seg.nii.gz
    roireg register a.png b.png -o out --init centers --only transform,report
    roireg register a.png b.png -o out --prompt 61,40 --prompt 80,44
    roireg register ct_a.nii.gz ct_b.nii.gz -o out --model sam-vit-base --profile fast --window lung
""",
)
def register(session: Session, job: RegisterJob) -> Outcome:
    """Register two images: find corresponding regions, fit a transform, say how far to trust it.

    Writes into OUT: transform.h5 (ITK composite, fixed to moving points, LPS mm), inverse.h5, warped.nii.gz (or .png:
    the moving image on the fixed grid), pairs/ (the regions), result.json (verdict, metrics, timings, provenance) and
    report.html (open it in a browser).

    Label maps and points are carried along: moved_labels (moving labels on the fixed grid),
    moved_labels_fixed_to_moving, moved_points_fixed_to_moving and moved_points_moving_to_fixed. Where both sides are
    given they are scored before and after; they never steer the registration (use --fixed-rois and --moving-rois for
    that).

    You can steer with what you know: --prompt names a region that must fit, --pairs regions that correspond.
    Accepted pairs are kept and rejected ones are never used; further pairs are looked for, unless one of those given
    is merely proposed, or with --pairs-only.

    Everything is computed before anything is written. In an existing OUT an earlier result is replaced as a whole and
    all other files stay; inputs and files that roireg did not write are never replaced. Exit code 3 means that the
    verdict is "failed".
    """
    from roireg.app.results import say_registration

    return say_registration(session, job, session.run(job))


@command(
    app,
    "apply",
    example="""
    roireg apply out/transform.h5 moving_pet.nii.gz --reference fixed.nii.gz -o pet_on_fixed.nii.gz
    roireg apply out moving_seg.nii.gz --reference fixed.nii.gz --labels -o seg_on_fixed.nii.gz
    roireg apply out fixed_points.csv -o points_in_moving.csv
    roireg apply bold.nii.gz -t to_template -t i:t1_to_bold.h5 --reference template.nii.gz -o bold_on_template.nii.gz
""",
)
def apply(session: Session, job: ApplyJob) -> Outcome:
    """Warp an image, time series or label map, or map points, with one transform or several.

    A transform maps fixed points to moving points. So it brings a moving image onto the fixed grid and fixed points
    into the moving image; --inverse does the opposite of both. Of a 4D file every volume is carried, or the one that
    --frame names; NaN stays NaN. Writes OUT, in the pixel type of IMAGE.

    What was registered on thumbnails in pixels is applied to the full images with --fixed-scale and --moving-scale.
    """
    from roireg.app.results import say_applied

    return say_applied(session, job, session.run(job))


@command(
    app,
    "convert",
    example="""
    roireg convert out/transform.h5 warp.nii.gz
    roireg convert out/transform.h5 --ants ants_
    roireg convert volume.nii.gz slice.nii.gz --slice z=12
    roireg convert points.fcsv points.csv
""",
)
def convert(session: Session, job: ConvertJob) -> Outcome:
    """Write a transform, image, point file or set of ROI pairs in another format.

    Transforms: .h5 and .tfm (ITK composite), .mat (one affine), .nii.gz, .nrrd, .mha (displacement field, LPS mm), or
    the files of ANTs. Images: .nii.gz, .nrrd, .mha, .png, .tif, .jpg. Points: .csv, .mrk.json, .fcsv. ROI pairs:
    folder or .zip. Writes OUT, or the files of PREFIX.
    """
    from roireg.app.results import say_converted

    return say_converted(session, job, session.run(job))


@command(
    app,
    "segment",
    example="""
    roireg segment image.nii.gz -o regions.nii.gz
    roireg segment photo.png -o organ.png --point 120,80
    roireg segment photo.png -o regions.png --model sam-vit-base --profile fast
    roireg segment ct.nii.gz -o organ.nii.gz --point 10,-40,55 --point 30,-40,55 --label 1 --label 0
""",
)
def segment(session: Session, job: SegmentJob) -> Outcome:
    """Find regions in an image, or the region that points or a box ask for; without weights, or by a network.

    Without a prompt: the most stable regions of all sizes. With one: the best answer first, then alternatives.
    Writes OUT (a label map on the grid of the image; regions that overlap go to further files OUT_1, OUT_2, ...), a
    .json of the same name with label, layer, stability, size and centroid of every region, and an _overview.png.
    """
    from roireg.app.results import say_regions

    return say_regions(session, job, session.run(job))


@command(
    app,
    "prompt",
    example="""
    roireg prompt fixed.nii.gz moving.nii.gz --point 61,40,12 -o out
    roireg prompt a.png b.png --point 61,40 --point 80,44 --label 1 --label 0 -o out
    roireg prompt a.png b.png --in moving --prompts clicks.csv --register -o out
""",
)
def prompt(session: Session, job: PromptJob) -> Outcome:
    """Point at something in one image, get the corresponding region in the other.

    Writes into OUT: pairs/ (the region pairs; `roireg register --pairs` starts from them), result.json (per prompt
    the corresponding prompt in mm and px, the confidence from 0 to 1, or why there is no counterpart) and
    overview.png. With --guide auto most of the time goes into the quick registration; give the transform of an
    earlier registration instead to save that time.

    Exit code 3 means that no prompt has a counterpart, or that --register failed by its own verdict.
    """
    from roireg.app.results import say_prompts

    return say_prompts(session, job, session.run(job))


@command(
    app,
    "match",
    example="""
    roireg match fixed.nii.gz moving.nii.gz -o out
    roireg match a.png b.png -o out --top 10 --epsilon 0.5
    roireg match fixed.nii.gz moving.nii.gz -o again --pairs out
""",
)
def match(session: Session, job: MatchJob) -> Outcome:
    """Find which regions of two images correspond; no transform is computed.

    Writes into OUT: pairs/ (pairs.json and the label maps of both images), result.json (the list) and overview.png
    (equal colours and numbers correspond). Correct the pairs there: status "accepted" or "rejected" in
    pairs/pairs.json, or painted regions. `roireg register --pairs OUT` starts from them, `roireg match --pairs OUT`
    looks for the others again.

    Exit code 3 means that there is no pair.
    """
    from roireg.app.results import say_pairs

    return say_pairs(session, job, session.run(job))


@command(
    app,
    "evaluate",
    example="""
    roireg evaluate out --fixed-labels a_seg.nii.gz --moving-labels b_seg.nii.gz
    roireg evaluate warp.nii.gz --fixed a.nii.gz --truth true.h5 --fixed-mask body.nii.gz
    roireg evaluate --fixed-points a.csv --moving-points b.csv
""",
)
def evaluate(session: Session, job: EvaluateJob) -> Outcome:
    """Score a transform, or label maps and points as they lie, against the truth.

    Prints what can be measured from the files, before and after the transform: Dice, HD95 and ASSD (label maps),
    landmark error (points), similarity (images), folding, SDlogJ and inverse consistency error (a transform with any
    fixed file), displacement error (--truth). Lengths are mm, or pixels for raster images. Writes OUT if named.
    """
    from roireg.app.results import say_scores

    return say_scores(session, job, session.run(job))


@command(
    app,
    "cohort",
    example="""
    roireg cohort pairs.csv -o study --jobs 4
    roireg cohort --all-to template.nii.gz a.nii.gz b.nii.gz -o study
    roireg cohort pairs.csv -o study --only failed,uncertain --search full
    roireg cohort pairs.csv -o study --index 0
""",
)
def cohort(session: Session, job: CohortJob) -> Outcome:
    """Register many pairs: those of a table, all images to one, or all pairs of images.

    A table has the columns fixed, moving and, if you like, id and any option of `register`, such as moving_labels,
    pairs or seed; paths are relative to it. A pair that fails does not stop the others; the cause is printed and
    kept. Run again, the command registers only what is missing or has changed: inputs, options and code decide.

    Writes into OUT: pairs/ID (as `register` does), summary.tsv (a line per pair), index.html (all pairs, worst
    first), thumbnails/ and failures/ID.json. Exit code 3 means that a pair has no result or one that failed.
    """
    from roireg.app.cohort import far, say_cohort

    with far(session) as progress:
        result = job.run(progress)
    return say_cohort(session, result, strict=job.strict, page="index.html" if job.index is None else None)


@command(
    app,
    "bids",
    example="""
    roireg bids data derivatives/roireg participant --template template.nii.gz --to MNI152NLin2009cAsym
    roireg bids data derivatives/roireg participant --participant-label 01 --participant-label 02
    roireg bids data derivatives/roireg group --template template.nii.gz --to MNI152NLin2009cAsym
""",
)
def bids(session: Session, job: BidsJob) -> Outcome:
    """Register the anatomical images of a BIDS data set: rigidly within a subject, deformably onto a template.

    The reference of a subject is the T1w of its first session (--reference); its other sessions and modalities go
    onto it, and it goes onto the template. Writes BIDS derivatives into OUT: sub-01_from-T1w_to-X_mode-image_xfm.h5,
    its inverse, images and label maps with space-X, JSON sidecars (which way points go), sub-01.html and
    dataset_description.json; work/ keeps the results as `register` writes them. Run again, the command registers only
    what is missing or has changed. The group level writes group.html and a table of the volumes of labels.
    """
    from roireg.app.cohort import far, say_cohort

    with far(session) as progress:
        result = job.run(progress)
    page = "group.html" if job.analysis == "group" else ""
    return say_cohort(session, result, strict=job.strict, page=page)


@command(
    app,
    "template",
    example="""
    roireg template a.nii.gz b.nii.gz c.nii.gz -o template
    roireg template subjects.csv -o template --jobs 4 --iterations 5
""",
)
def template(session: Session, job: TemplateJob) -> Outcome:
    """Build an unbiased template: the mean of images in shape and brightness, and their regions on it.

    In every round all images are registered to the mean; the next mean lies at the average of their positions and
    shapes (mean affine map and mean velocity). Writes into OUT: template.nii.gz, transforms/ID.h5 (template to image
    points) and ID_inverse.h5, labels.nii.gz (label maps of a table, fused) or regions.nii.gz (regions that most
    images share), volumes.tsv (their volume in every image, and how far to trust it) and rounds/, from which the same
    command goes on after it was stopped.
    """
    from roireg.app.cohort import far, say_template

    with far(session) as progress:
        result = job.run(progress)
    return say_template(session, job, result)


@command(
    app,
    "report",
    example="""
    roireg report out
    roireg report out --fixed /data/a.nii.gz --moving /data/b.nii.gz -o report.html
""",
)
def report(session: Session, options: ReportOptions) -> Outcome:
    """Render the HTML report of a saved result anew.

    Needs transform.h5 and result.json in the folder, pairs/ if regions are to be shown, and both images, which are
    looked for where they were and compared by checksum. Writes one HTML file that opens offline.
    """
    return write_report(session, options)


@command(
    app,
    "view",
    example="""
    roireg view fixed.nii.gz moving.nii.gz
    roireg view out
    roireg view a.png b.png --fixed-points a.csv --moving-points b.csv -o corrected
""",
)
def view(session: Session, options: ViewOptions) -> Outcome:
    """Open a pair, or a result, in the browser: click, see the counterpart, correct it, register, export.

    The server answers on this computer alone, at an address with a random token; nothing is loaded from elsewhere.
    Export writes what `register` writes into OUT, with landmarks and your decisions. Decisions that were not exported
    are kept and come back when the same images are opened.
    """
    return view_pair(session, options)


@command(
    app,
    "serve",
    example="""
    roireg serve --root /data/scans -o /data/results --port 8765
""",
)
def serve(session: Session, options: ServeOptions) -> Outcome:
    """Run the viewer's server alone, for pages and programs that talk to it over HTTP.

    Prints address and token. Requests open files below the folders named by --root, and uploads; results go into
    OUT. /openapi.json describes the API.
    """
    return serve_pairs(session, options)


@command(
    app,
    "info",
    example="""
    roireg info image.nii.gz dicom_folder/
    roireg info out/transform.h5 out/pairs points.csv --json
    roireg info --presets
""",
)
def info(session: Session, options: InfoOptions) -> Outcome:
    """Say what is in files: size, place and intensities; kind of transforms; points; pairs; verdict of results.

    Prints to the terminal and writes nothing. A folder with several DICOM series is listed with the names to use.
    With --presets: the settings a file for `register --config` may have, one YAML document per preset.
    """
    from roireg.app.info import say_files, say_presets

    return say_presets(session) if options.presets else say_files(session, options.files or (), options.picture)


@command(
    app,
    "demo",
    example="""
    roireg demo -o demo
    roireg demo -o demo3d --3d
""",
)
def demo(
    session: Session,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")] = Path("demo"),
    volume: Annotated[bool, typer.Option("--3d", help="A volume instead of one slice.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Which phantom.")] = 0,
) -> Outcome:
    """Make two phantom images with a known deformation, register them and print the true error.

    Writes the phantom into OUT/inputs (images, label maps, points, true transform) and the results into OUT, as
    `register` does; open OUT/report.html. One slice takes about half a minute on two idle
    cores, a volume (--3d) longer.
    """
    from roireg.app.demo import demo as run

    return run(session, out, volume=volume, seed=seed)


app.add_typer(models_app, name="models")
app.add_typer(train_app, name="train")


def main(started: float | None = None) -> None:
    """Run the command line.

    Parameters
    ----------
    started : time of the clock `time.perf_counter` at which the program was started.
    """
    open_streams()
    try:
        Path.home()
    except RuntimeError:
        # An unknown user in a container; libraries look for settings and caches there.
        os.environ["HOME"] = os.sep
    # A batch system that takes a job back lets it end its child processes and remove what it has half written.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # as `roireg.__main__` set it
            signal.signal(signal.SIGINT, signal.default_int_handler)
        app(prog_name="roireg", obj=started)
    except KeyboardInterrupt:
        # Before a command has begun: the imports take a moment.
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
