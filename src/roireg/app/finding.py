"""``segment`` and ``prompt``: what the commands take and what their help says; `cli` makes commands of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roireg.app import options as opt
from roireg.app.console import Outcome, Session

__all__ = ["PROMPT_EXAMPLE", "SEGMENT_EXAMPLE", "prompt", "segment"]


SEGMENT_EXAMPLE = """
    roireg segment image.nii.gz -o regions.nii.gz
    roireg segment photo.png -o organ.png --point 120,80
    roireg segment photo.png -o regions.png --model sam-vit-base --profile fast
    roireg segment ct.nii.gz -o organ.nii.gz --point 10,-40,55 --point 30,-40,55 --label 1 --label 0
"""


def segment(
    session: Session,
    image: Annotated[Path, typer.Argument(help="Image to segment.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Label map to write.")],
    *,
    point: Annotated[
        list[str] | None, typer.Option(metavar="X,Y[,Z]", help="World point in the region (mm, px); repeatable.")
    ] = None,
    label: Annotated[
        list[int] | None, typer.Option(min=0, max=1, help="Per --point: 1 inside (default), 0 outside.")
    ] = None,
    box: Annotated[
        str | None, typer.Option(metavar="X,Y[,Z],X,Y[,Z]", help="Two opposite world corners around the region.")
    ] = None,
    max_count: Annotated[int, typer.Option(min=1, help="How many regions at most (without a prompt).")] = 64,
    min_size: Annotated[float, typer.Option(help="Smallest region, as a fraction of the image.")] = 0.0005,
    max_size: Annotated[float, typer.Option(help="Largest region, as a fraction of the image.")] = 0.5,
    model: opt.Model = None,
    profile: opt.Profile = None,
    window: opt.Window = None,
    cache: opt.CacheFolder = None,
    frame: opt.FrameOption = None,
    device: opt.Device = "auto",
) -> Outcome:
    """Find regions in an image, or the region that points or a box ask for; without weights, or by a network.

    Without a prompt: the most stable regions of all sizes. With one: the best answer first, then alternatives.
    Writes OUT (a label map on the grid of the image; regions that overlap go to further files OUT_1, OUT_2, ...), a
    .json of the same name with label, layer, stability, size and centroid of every region, and an _overview.png.
    """
    from roireg.app.regions import segment as run

    return run(
        session,
        image,
        out,
        points=point or [],
        labels=label or [],
        box=box,
        max_count=max_count,
        smallest=min_size,
        largest=max_size,
        model=model,
        profile=profile,
        window=window,
        cache=cache,
        frame=frame,
        device=device,
    )


PROMPT_EXAMPLE = """
    roireg prompt fixed.nii.gz moving.nii.gz --point 61,40,12 -o out
    roireg prompt a.png b.png --point 61,40 --point 80,44 --label 1 --label 0 -o out
    roireg prompt a.png b.png --in moving --prompts clicks.csv --register -o out
"""


def prompt(
    session: Session,
    fixed: Annotated[Path, typer.Argument(help="One image: a file, or a folder with a DICOM series.")],
    moving: Annotated[Path, typer.Argument(help="The other image.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Result folder.")],
    *,
    point: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y[,Z]", help="A point; several, with their labels, make one prompt."),
    ] = None,
    label: Annotated[
        list[int] | None, typer.Option(help="Per --point: 1 inside the region (default), 0 outside.")
    ] = None,
    box: Annotated[
        str | None, typer.Option(metavar="X0,Y0[,Z0],X1,Y1[,Z1]", help="Two opposite corners around the region.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="The region itself (not 0), on the grid of its image.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Points, each a prompt of its own: .csv, .mrk.json, .fcsv (LPS mm; px in 2D).")
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(help="Of --point and --box: px (voxel index from 0) or mm (LPS). px for PNG, JPEG, TIFF."),
    ] = None,
    side: Annotated[str, typer.Option("--in", help="The image that is pointed at: fixed or moving.")] = "fixed",
    register: Annotated[
        bool, typer.Option("--register", help="Also register from the region pairs, into OUT/registration.")
    ] = False,
    guide: Annotated[
        str | None,
        typer.Option(help="auto (a quick registration), identity, centers, none, or a transform FILE."),
    ] = None,
    preset: Annotated[str, typer.Option(help="default, or promptreg as published.")] = "default",
    segmenter: Annotated[str, typer.Option(help="What answers prompts.")] = "hierarchy",
    model: opt.Model = None,
    profile: opt.Profile = None,
    window: opt.Window = None,
    cache: opt.CacheFolder = None,
    features: opt.Features = None,
    frame: opt.FramesOption = None,
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
) -> Outcome:
    """Point at something in one image, get the corresponding region in the other.

    Writes into OUT: pairs/ (the region pairs; `roireg register --pairs` starts from them), result.json (per prompt
    the corresponding prompt in mm and px, the confidence from 0 to 1, or why there is no counterpart) and
    overview.png. With --guide auto most of the time goes into the quick registration; pass the transform of an
    earlier one to save it.

    Exit code 3 means that no prompt has a counterpart, or that --register failed by its own verdict.
    """
    from roireg.app.files import parse_frames
    from roireg.app.prompt import PromptJob, prompt_files

    job = PromptJob(
        fixed=fixed,
        moving=moving,
        out=out,
        points=point or (),
        labels=label or (),
        box=box,
        mask=mask,
        prompts=prompts,
        unit=unit,
        side=side,
        segmenter=segmenter,
        model=model,
        profile=profile,
        window=window,
        cache=cache,
        features=features,
        guide=guide,
        settings=preset,
        register=register,
        frames=parse_frames(frame),
        device=device,
        seed=seed,
    )
    return prompt_files(session, job)
