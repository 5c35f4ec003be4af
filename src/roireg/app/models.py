"""``models``: which networks there are, where their weights are, how to get them, and whether a file is whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from roireg.app.console import Outcome, Session, command
from roireg.core.errors import InputError

__all__ = ["models_app"]

models_app = typer.Typer(
    no_args_is_help=True,
    help="Networks for regions and features: list them, fetch their weights, check a file.\n\n"
    "Nothing goes online but `fetch`, which writes into the cache of huggingface_hub (HF_HOME). Weights are looked "
    "for there and in the folder that ROIREG_MODELS names.\n\n\b\nExample:\n  roireg models list",
)


@command(
    models_app,
    "list",
    example="""
    roireg models list
    roireg models list --json
""",
)
def list_models(session: Session) -> Outcome:
    """List the networks, their sizes and licences, and which are on this disk.

    Prints a table: name, dimension and input size in pixels or voxels, parameters, rough memory to encode one image,
    prompts, licence of the weights, and whether the weights are on this disk. Goes nowhere else.
    """
    from rich.table import Table

    from roireg.app.summary import escape
    from roireg.models import available_models

    rows = [_describe(card) for card in available_models()]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("model", "input", "params", "memory", "prompts", "licence", "here"):
        right = heading in ("input", "params", "memory")
        # The licence is never cut short.
        wraps = heading == "licence"
        table.add_column(
            heading, justify="right" if right else "left", no_wrap=not wraps, overflow="fold" if wraps else "ellipsis"
        )
    for row in rows:
        here = "[green]yes[/]" if row["path"] else ("server" if row["served"] else "[dim]no[/]")
        table.add_row(
            f"[bold]{escape(row['name'])}[/]",
            f"{row['ndim']}D {row['input_size']}",
            f"{row['parameters_million']:.0f} M",
            f"{row['memory_mb'] / 1000:.1f} GB" if row["memory_mb"] else "–",
            ", ".join(row["prompts"]) or row["gives"],
            escape(row["weights_licence"]),
            here,
        )
    session.say(table)
    session.say("\n`roireg models info NAME` says more, `roireg models fetch NAME` gets the weights.")
    return Outcome({"models": rows}, printed=True)


@command(
    models_app,
    "info",
    example="""
    roireg models info sam-vit-base
    roireg models info medsam --json
""",
)
def info(session: Session, name: Annotated[str, typer.Argument(help="Name of a model, see `list`.")]) -> Outcome:
    """Say what is known of a network: source, licences, input, memory, and where its weights are.

    Prints to the terminal; reads no weights and goes nowhere else.
    """
    from roireg.models import find_card

    row = _describe(find_card(name))
    _say_card(session, row)
    return Outcome(row, printed=True)


@command(
    models_app,
    "fetch",
    example="""
    roireg models fetch sam-vit-base
    roireg models fetch sam2.1-tiny --yes
""",
)
def fetch(
    session: Session,
    name: Annotated[str, typer.Argument(help="Name of a model, see `list`.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether the licence is accepted.")] = False,
) -> Outcome:
    """Download the weights of a network after showing their licence; the only command that goes online.

    Writes into the cache of huggingface_hub (HF_HOME), or into ~/.cache/roireg/models for files that their authors
    publish elsewhere, and prints the place and its SHA-256. Weights that are on this disk already are left as they
    are. Models that are published in another way: says where to get the file.
    """
    from roireg.io.weights import fetch_weights, weights_digest
    from roireg.models import find_card

    card = find_card(name)
    row = _describe(card)
    if row["served"]:
        raise InputError(f"{card.name} runs on a server of its own and has no weights to fetch; see {card.source}")
    if row["path"] is None:
        if card.hub_id is not None or card.url:
            _ask(session, row, yes)
        fetch_weights(
            card.name,
            hub_id=card.hub_id,
            source=card.source,
            files=card.files,
            url=card.url,
            sha256=card.sha256,
        )
        row = _describe(card)
    else:
        session.say(f"{card.name} is on this disk already")
    row["sha256"] = weights_digest(row["path"])
    _say_card(session, row)
    return Outcome(row)


@command(
    models_app,
    "check",
    example="""
    roireg models check sam_vit_b_01ec64.pth
    roireg models check folder_with_config_json
    roireg models check medsam=my_own.pth
""",
)
def check(
    session: Session,
    path: Annotated[str, typer.Argument(help="Checkpoint file, Hugging Face folder, NAME=PATH, or NAME.")],
) -> Outcome:
    """Load a checkpoint and say what it is: architecture, sizes, tensors that do not belong, SHA-256.

    Compares the SHA-256 with the published one where there is one. Says what the tensors cannot tell, such as how
    images are prepared. Prints to the terminal. Exit code 2 when it is damaged, incomplete, another architecture
    than NAME, or has the name of a published file and another SHA-256.
    """
    from roireg.app.summary import escape, rows_table
    from roireg.io.weights import weight_files
    from roireg.models import load, resolve
    from roireg.models.registry import family_of

    card, place = resolve(path)
    if place is None:
        raise InputError(f"{card.name} runs on a server of its own; there is no file to check")
    model: Any = load(path, "prompts" if card.prompts else "classes" if _classed(card) else "features")
    how = getattr(model, "preprocessing", None) or getattr(model, "volume", None)
    preprocessing = "as in its training" if how is None else how.words
    family = family_of(card)
    digest = family.digest(place)
    files = [family.folder.weights(place)] if family.folder is not None else weight_files(place)
    parameters = sum(p.numel() for p in model.network.parameters())
    document = {
        "path": place,
        "name": card.name,
        "family": card.family,
        "ndim": card.ndim,
        "input_size": card.input_size,
        "parameters": parameters,
        "bytes": sum(file.stat().st_size for file in files),
        "sha256": digest,
        "published_sha256": card.sha256 or None,
        "unexpected": model.report.unexpected,
        "preprocessing": preprocessing,
        "weights_licence": card.weights_licence,
        "remarks": model.report.remarks,
        "key": model.key,
    }
    compared = _compared(card, place, digest)
    session.say(f"[green]ok[/]  {escape(str(place))}")
    rows = [
        ("architecture", f"{card.family}, {card.ndim}D, input {card.input_size}"),
        ("parameters", f"{parameters:,}"),
        ("size", _size(document["bytes"])),
        ("tensors", _tensors(model.report.unexpected)),
        ("images", preprocessing),
        ("licence", f"weights {card.weights_licence}"),
        ("SHA-256", f"{digest} ({compared})"),
        *(("note", remark) for remark in model.report.remarks),
    ]
    session.say(rows_table(rows))
    return Outcome(document, printed=True)


# -- text -----------------------------------------------------------------------------------------


def _classed(card: Any) -> bool:
    from roireg.models.classes import ClassNetwork
    from roireg.models.registry import family_of

    model = family_of(card).model
    return isinstance(model, type) and issubclass(model, ClassNetwork)


def _describe(card: Any) -> dict[str, Any]:
    from roireg.io.weights import find_weights, hub_folder, kept_folder, weight_files
    from roireg.models.registry import family_of

    family = family_of(card)
    served = family.connect is not None
    path = None if served else find_weights(card.name, hub_id=card.hub_id, files=card.files)
    row = {name: value for name, value in vars(card).items() if name not in ("parameters", "sha256", "size")}
    return row | {
        "parameters_million": card.parameters,
        "prompts": [kind for kind in ("point", "box", "mask") if kind in card.prompts],
        "preprocessing": None if card.preprocessing is None else card.preprocessing.words,
        "gives": "classes only" if _classed(card) else "features only",
        "served": served,
        "path": path,
        "bytes": None if path is None else sum(file.stat().st_size for file in weight_files(path)),
        "cache": hub_folder(card.hub_id) if card.hub_id else kept_folder(card.name) if card.url else None,
        "expected_bytes": None if served else round(4e6 * card.parameters),
    }


def _say_card(session: Session, row: dict[str, Any]) -> None:
    from roireg.app.summary import escape, rows_table

    session.say(f"[bold]{escape(row['name'])}[/]  {escape(row['notes'])}")
    rows = [
        ("architecture", f"{row['family']}, {row['ndim']}D, input {row['input_size']}"),
        ("prompts", ", ".join(row["prompts"]) or f"none: {row['gives']}"),
        ("images", row["preprocessing"]),
        ("parameters", f"{row['parameters_million']:g} million{_memory(row)}"),
        ("source", row["source"]),
        ("hub", row["hub_id"] or row["url"] or "not fetched from the Hugging Face hub"),
        ("files", ", ".join(row["files"]) or ("none" if row["served"] else "config.json and *.safetensors")),
        ("licence", f"code {row['code_licence']}, weights {row['weights_licence']}"),
        ("weights", _place(row)),
    ]
    session.say(rows_table(rows + ([("SHA-256", row["sha256"])] if "sha256" in row else [])))


def _place(row: dict[str, Any]) -> str:
    """Say where the weights are, or where they would go and how large they are."""
    if row["served"]:
        return "on its server"
    if row["path"]:
        return f"{row['path']} ({_size(row['bytes'])})"
    size = f"not on this disk, about {_size(row['expected_bytes'])}"
    if row["cache"]:
        return f"{size}; `roireg models fetch {row['name']}` puts them into {row['cache']}"
    return f"{size}; put {' or '.join(row['files'])} into the folder that ROIREG_MODELS names"


def _compared(card: Any, place: Path, digest: str) -> str:
    """Say how a SHA-256 compares with the published one.

    Raises
    ------
    InputError
        When the file has the published name and is another file.
    """
    if not card.sha256 or place.is_dir():
        return "none is published to compare it with"
    if digest.startswith(card.sha256):
        return f"as published, {len(card.sha256)} digits compared"
    if place.name == card.files[0]:
        raise InputError(
            f"{place}: has the SHA-256 {digest[:16]}…, where the published file has {card.sha256[:16]}…; it is "
            "damaged or another file, so fetch it again or give it a name of its own"
        )
    return f"not that of the published {card.files[0]}"


def _memory(row: dict[str, Any]) -> str:
    return f", about {row['memory_mb'] / 1000:.1f} GB of memory to encode one image" if row["memory_mb"] else ""


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def _tensors(unexpected: tuple[str, ...]) -> str:
    if not unexpected:
        return "all that the network needs, none besides"
    some = ", ".join(unexpected[:5]) + (f" and {len(unexpected) - 5} more" if len(unexpected) > 5 else "")
    return f"all that the network needs; {len(unexpected)} do not belong to it ({some})"


def _ask(session: Session, row: dict[str, Any], yes: bool) -> None:
    """Show the licence before anything is downloaded; without a terminal --yes is needed."""
    licence = f"{row['name']}: weights under {row['weights_licence']}, code under {row['code_licence']}"
    session.note("licence", f"{licence}; see https://huggingface.co/{row['hub_id']}", "yellow")
    if yes:
        return
    if session.json or not _at_a_terminal():
        raise InputError(f"{licence}; say that you accept it with --yes")
    if not typer.confirm("Download?", err=True):
        raise InputError(f"{row['name']} was not downloaded because its licence was not accepted")


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()
