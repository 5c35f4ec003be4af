"""``view`` and ``serve``: the viewer in the browser, and its server alone."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from roireg.app.console import Outcome, Session
from roireg.core.errors import InputError, OptionalDependencyError
from roireg.core.words import INIT_WORDS, PresetName, SearchRange, TransformType
from roireg.jobs.files import check_input, kind_of
from roireg.jobs.options import (
    STARTED,
    Device,
    PicturesOptions,
    Seed,
    Words,
    option,
    parse_size,
    words_or_file,
)

if TYPE_CHECKING:
    from roireg.serve.running import Server

__all__ = ["ServeOptions", "ViewOptions", "serve", "view"]

PORT = typer.Option(
    "--port", min=0, max=65535, help="Port on this computer; 0 takes any that is free.", rich_help_panel="Server"
)


@dataclass(frozen=True, kw_only=True)
class ViewOptions(PicturesOptions):
    """A pair or a result folder, and how the browser is served."""

    fixed: Annotated[Path, typer.Argument(help="The image that stays, or the folder of a result.")]
    moving: Annotated[Path | None, typer.Argument(help="The image that is brought onto it.")] = None
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder that Export writes; default: by the names of the images."),
    ] = None
    images: Annotated[
        str | None,
        typer.Option("--images", metavar="FIXED,MOVING", help="Of a result: its images, if they are elsewhere now."),
    ] = None
    preset: Annotated[PresetName, option(help="Named settings of the fit.", panel=STARTED)] = "default"
    type: Annotated[
        TransformType | None,
        option(help="What may move.", show_default="deformable", panel=STARTED),
    ] = None
    search: Annotated[
        SearchRange | None, option(help="Volumes: rotations within 45 degrees, or all.", panel=STARTED)
    ] = None
    init: Annotated[str, words_or_file(INIT_WORDS, help="Where to start from.", panel=STARTED), Words(INIT_WORDS)] = (
        "auto"
    )
    fixed_rois: Annotated[Path | None, option(help="Label map: regions of the fixed image.", panel=STARTED)] = None
    moving_rois: Annotated[
        Path | None, option(help="The same for the moving image; equal ids correspond.", panel=STARTED)
    ] = None
    fixed_points: Annotated[Path | None, option(help="Landmarks of the fixed image.", panel=STARTED)] = None
    moving_points: Annotated[Path | None, option(help="Landmarks of the moving image.", panel=STARTED)] = None
    device: Device = "auto"
    seed: Seed = 0
    port: Annotated[int, PORT] = 0
    browser: Annotated[
        bool,
        typer.Option("--browser/--no-browser", help="Open the browser; else only print the address."),
    ] = True
    keep: Annotated[
        bool,
        typer.Option("--keep/--no-keep", help="Keep unfinished work for the next time these images are opened."),
    ] = True

    def check(self) -> None:
        """Refuse files that are not there, and a result together with a second image."""
        for path in (self.fixed, self.moving, self.fixed_rois, self.moving_rois, self.fixed_points):
            if path is not None:
                check_input(path)
        if self.moving_points is not None:
            check_input(self.moving_points)
        _ = self.pictures
        if self.moving is None and not (self.fixed / "result.json").is_file():
            raise InputError(f"{self.fixed}: this is no folder of a result; name two images, or such a folder")
        if self.images is not None:
            if self.moving is not None:
                raise InputError("--images says where the images of a result are; it is not for a pair")
            for path in self.places:
                check_input(path or Path())
        if (self.fixed_rois is None) != (self.moving_rois is None):
            raise InputError("--fixed-rois and --moving-rois belong together; give both")

    @property
    def places(self) -> tuple[Path, Path] | tuple[None, None]:
        """Where the images of a result are now."""
        if self.images is None:
            return None, None
        parts = self.images.split(",")
        if len(parts) != 2 or not all(parts):
            raise InputError(f"--images takes two paths as FIXED,MOVING, found {self.images!r}")
        return Path(parts[0]), Path(parts[1])


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """A server for pages and programs of others."""

    root: Annotated[
        list[Path] | None,
        typer.Option(
            "--root", metavar="DIR", help="Folder whose files may be opened; repeatable. Without any: uploads alone."
        ),
    ] = None
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder that results are written into.")] = Path()
    port: Annotated[int, PORT] = 0
    max_upload: Annotated[
        str, typer.Option(metavar="SIZE", help="Largest file that may be uploaded, such as 500M or 2G.")
    ] = "2G"
    keep: Annotated[
        bool,
        typer.Option("--keep/--no-keep", help="Keep unfinished work for the next time these images are opened."),
    ] = True

    def check(self) -> None:
        """Refuse folders that are not there."""
        for folder in (*(self.root or ()), self.out):
            if not folder.is_dir():
                raise InputError(f"{folder}: there is no such folder; make it, or name another one")
        parse_size(self.max_upload, name="--max-upload")


def view(session: Session, options: ViewOptions) -> Outcome:
    """Serve one pair until Ctrl-C; see the command's help."""
    server = _server(options.port, options.keep, out=Path())
    with _closing(server):
        opened = _opened(server, options)
        server.start()
        address = server.address(opened)
        session.say(f"viewer: {escape(address)}")
        session.say("Close it with Ctrl-C; what you decided is kept." if options.keep else "Close it with Ctrl-C.")
        if options.browser and not webbrowser.open(address):
            session.note("note", "no browser could be started here; open the address above", "blue")
        _wait(session, server, address)
    return Outcome(printed=True)


def serve(session: Session, options: ServeOptions) -> Outcome:
    """Serve until Ctrl-C; see the command's help."""
    size = parse_size(options.max_upload, name="--max-upload")
    server = _server(options.port, options.keep, out=options.out, roots=options.root or (), largest_upload=size)
    with _closing(server):
        server.start()
        session.say(f"server: {escape(server.origin)}")
        session.say(f"token: {escape(server.token)}")
        session.say(f"viewer: {escape(server.address())}")
        _wait(session, server, server.address())
    return Outcome(printed=True)


def _server(port: int, keep: bool, *, out: Path, roots: Any = (), **more: Any) -> Server:
    try:
        from roireg.serve.hub import Hub
        from roireg.serve.running import Server
        from roireg.serve.store import default_folder
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn"):
            raise
        raise OptionalDependencyError(
            f"the viewer needs {error.name}, which is not installed; install it with: pip install 'roireg[view]'"
        ) from error
    return Server(Hub(roots, out, default_folder() if keep else None), port=port, **more)


def _opened(server: Server, options: ViewOptions) -> str:
    """Open the pair or the result; return the name of its session."""
    from roireg.serve.api import NOT_BUILT, STATIC
    from roireg.serve.exporting import ViewerJob

    if not (STATIC / "index.html").is_file():
        raise OptionalDependencyError(NOT_BUILT)
    if options.moving is None and kind_of(options.fixed) != "result":
        raise InputError(f"{options.fixed}: this result has no transform; register again with it")
    if options.moving is None:
        out = options.out or options.fixed.with_name(f"{options.fixed.resolve().name}-edited")
        fixed, moving = options.places
        return server.hub.open_result(options.fixed, out, fixed=fixed, moving=moving).name
    names = [path.name.split(".")[0] for path in (options.moving, options.fixed)]
    job = ViewerJob(
        fixed=options.fixed,
        moving=options.moving,
        out=options.out or Path(f"{names[0]}-onto-{names[1]}"),
        preset=options.preset,
        type=options.type,
        search=options.search,
        init=options.init,
        device=options.device,
        seed=options.seed,
        fixed_rois=options.fixed_rois,
        moving_rois=options.moving_rois,
        fixed_points=options.fixed_points,
        moving_points=options.moving_points,
        frame=options.frame,
        level=options.level,
        page=options.page,
        channel=options.channel,
    )
    return server.hub.open(job).name


def _wait(session: Session, server: Server, address: str) -> None:
    if session.json:
        # Whoever asked for a document reads it while the server runs.
        session.say_json({"address": address, "origin": server.origin, "token": server.token})
    server.wait()


@contextmanager
def _closing(server: Server) -> Iterator[None]:
    """Close a server at the end of a block: at Ctrl-C, which is how it is meant to end, or SIGTERM with its code."""
    code: Any = None
    try:
        yield
        code = 0
    except KeyboardInterrupt:
        code = 0
    except SystemExit as end:
        code = end.code
        raise
    finally:
        if not server.close() and isinstance(code, int):
            # A search that looks up only every few seconds; what was decided is on disk.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
