"""``train``: sample sheets of generated scenes, and the training of the embedding and of deformation networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roireg.app.console import Outcome, Session, command
from roireg.core.errors import InputError
from roireg.jobs.options import Replace

__all__ = ["train_app"]

train_app = typer.Typer(
    no_args_is_help=True,
    help="Train networks of this package: on scenes that are generated, or on images of your own.\n\n"
    'Needs the extra [train]: `pip install "roireg\\[train]"`.\n\n\b\nExample:\n  roireg train scenes -o sheet.png',
)


@command(
    train_app,
    "scenes",
    example="""
    roireg train scenes -o sheet.png
    roireg train scenes -o sheet3d.png --3d --count 12 --seed 7
""",
)
def scenes(
    session: Session,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write (.png).")],
    volume: Annotated[bool, typer.Option("--3d", help="Volumes, of which two slices are shown.")] = False,
    count: Annotated[int, typer.Option(min=1, max=400, help="How many pairs.")] = 24,
    first: Annotated[int, typer.Option(min=0, help="Number of the first pair.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Which scenes.")] = 0,
    replace: Replace = False,
) -> Outcome:
    """Show pairs of generated images as the training of the embedding sees them.

    Writes one picture: the moving image of each pair beside the fixed one. The same seed and number give the same
    pair, also in a training.
    """
    from roireg.core.files import check_file, mark_written
    from roireg.io import write_image
    from roireg.train.scenes import SceneSource
    from roireg.train.sheets import sheet

    check_file(out, replace=replace)
    source = SceneSource(3 if volume else 2, 64 if volume else 128, seed=seed)
    write_image(out, sheet([source[number] for number in range(first, first + count)]))
    mark_written(out)
    session.say(f"{count} pairs of seed {seed} in {out}")
    return Outcome({"out": out, "count": count, "seed": seed})


@command(
    train_app,
    "embedding",
    example="""
    roireg train embedding --config embedding-2d -o run
    roireg train embedding --config mine.yaml -o run --resume
""",
)
def embedding(
    session: Session,
    *,
    config: Annotated[
        str,
        typer.Option("--config", help="YAML file, or embedding-2d or embedding-3d, which made the shipped weights."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT.")] = False,
) -> Outcome:
    """Train the anatomical embedding on generated scenes, or on the folder that `volumes` of the settings names.

    Writes into OUT: last.ckpt after every part, log/metrics.csv, and at the end embedding.safetensors with its card
    embedding.json; features `embedding` take the weights with `model`. A run that was stopped and resumed ends with
    the same weights as one that was not. A loss that is no number ends the run, which can be resumed.
    """
    from roireg.train.configs import read_config
    from roireg.train.embedding import EmbeddingConfig, train_embedding

    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file has this name; name a folder for the run")
    settings = read_config(config, EmbeddingConfig)
    card = train_embedding(settings, out, resume=resume)
    session.say(f"trained {settings.train.steps} steps; the weights are {out / 'embedding.safetensors'}")
    return Outcome(card)


@command(
    train_app,
    "deform",
    example="""
    roireg train deform --config deform-same-2d -o run
    roireg train deform --config mine.yaml -o run --resume
""",
)
def deform(
    session: Session,
    *,
    config: Annotated[
        str, typer.Option("--config", help="YAML file, or one of those that come with it, such as deform-same-2d.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT.")] = False,
) -> Outcome:
    """Train a deformation network on generated scenes, or on the folder that `volumes` of the settings names.

    Writes into OUT: last.ckpt after every part, log/metrics.csv, and at the end deform.safetensors with its card
    deform.json, which says how far held-out pairs were off before and after. The stage `deform` of a settings file
    takes the weights. A run that was stopped and resumed ends with the same weights as one that was not.
    """
    from roireg.train.configs import read_config
    from roireg.train.deform import DeformConfig, train_deform

    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file has this name; name a folder for the run")
    settings = read_config(config, DeformConfig)
    card = train_deform(settings, out, resume=resume)
    held = card["held_out"]
    if "after" in held:
        session.say(
            f"held-out pairs were {held['before']:.2f} voxels off, {held['affine']:.2f} after the best affine map, "
            f"{held['after']:.2f} after the network"
        )
    session.say(f"trained {settings.train.steps} steps; the weights are {out / 'deform.safetensors'}")
    return Outcome(card)
