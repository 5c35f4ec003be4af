"""The HTTP API of the viewer. Every path begins with /api and needs the token; /openapi.json describes all of it."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Body, FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from pydantic import Field

from roireg import __version__
from roireg.core.errors import InputError, RoiregError
from roireg.core.rois import Prompt
from roireg.core.words import Side
from roireg.io import write_points
from roireg.serve.access import ForbiddenPathError, Guard
from roireg.serve.board import Landmark
from roireg.serve.bodies import (
    BrushBody,
    ExportBody,
    FilesBody,
    FitBody,
    LandmarkBody,
    LiveBody,
    OpenBody,
    PairBody,
    PointsBody,
    PromptBody,
    ScaleBody,
)
from roireg.serve.documents import outlines_document, proposal_document, session_document
from roireg.serve.exporting import ViewerJob, export, landmark_sets
from roireg.serve.hub import Hub, MissingError, take_labels, take_pairs, take_points
from roireg.serve.lines import grid_lines
from roireg.serve.pictures import doubt_tile, jacobian_tile, warped_tile
from roireg.serve.session import PairSession

__all__ = ["make_app"]

STATIC = Path(__file__).parent / "static"
WAIT = 20.0
"""Seconds that a request for news waits at most."""

NOT_BUILT = (
    "The pages of the viewer are not built: run `make viewer` (needs Node.js 20 and npm) or install a released "
    "wheel; `roireg serve` works without them"
)

Count = Annotated[int, Field(ge=0, le=100_000)]
Layer = Literal["fixed", "moving", "warped", "before", "jacobian", "doubt"]


def make_app(hub: Hub, token: str, *, largest_upload: int) -> Any:
    """Return the application: the API, the pages, and the guard before both."""
    app = FastAPI(
        title="roireg viewer",
        version=__version__,
        description="Corresponding regions of two images: prompts, pairs, fits. Send `Authorization: Bearer TOKEN`. "
        "World coordinates are LPS mm (x, y[, z]); pixels (column, row) for pictures without a size.",
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(_router(hub, largest_upload), prefix="/api")

    @app.exception_handler(RoiregError)
    def refused(request: Request, error: Exception) -> JSONResponse:
        status = 404 if isinstance(error, MissingError) else 403 if isinstance(error, ForbiddenPathError) else 422
        return JSONResponse({"detail": str(error)}, status)

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        index = STATIC / "index.html"
        return FileResponse(index) if index.is_file() else PlainTextResponse(NOT_BUILT, 503)

    @app.get("/assets/{name}", include_in_schema=False)
    def asset(name: str) -> Response:
        place = STATIC / "assets" / name
        known = {p.name for p in (STATIC / "assets").glob("*")} if (STATIC / "assets").is_dir() else set()
        if name not in known:
            return PlainTextResponse("there is no such file", 404)
        return FileResponse(place, headers={"cache-control": "public, max-age=31536000, immutable"})

    return Guard(app, token, largest_upload)


def _router(hub: Hub, largest_upload: int) -> APIRouter:
    api = APIRouter()
    _sessions(api, hub, largest_upload)
    _pictures(api, hub)
    _prompts(api, hub)
    _pairs(api, hub)
    _landmarks(api, hub)
    _fits(api, hub)
    return api


def _sessions(api: APIRouter, hub: Hub, largest_upload: int) -> None:
    @api.get("/about")
    def about() -> dict[str, Any]:
        """Say what this server is and what it takes."""
        return {"roireg": __version__, "largest_upload": largest_upload, "browsable": bool(hub.roots)}

    @api.get("/sessions")
    def sessions() -> list[dict[str, Any]]:
        """List the open pairs."""
        return [
            {
                "name": s.name,
                "fixed": s.images[0].name.rsplit("/", 1)[-1],
                "moving": s.images[1].name.rsplit("/", 1)[-1],
            }
            for s in hub.sessions.values()
        ]

    @api.post("/sessions", status_code=201)
    def open_pair(body: OpenBody) -> dict[str, Any]:
        """Open a pair of images, or a result folder with its images."""
        if body.result is not None:
            if body.fixed is not None or body.moving is not None:
                raise InputError("a result names its own images; give either a result, or fixed and moving")
            folder = hub.place(body.result)
            return session_document(hub.open_result(folder, hub.out / f"{folder.name}-edited"))
        if body.fixed is None or body.moving is None:
            raise InputError("a pair is a fixed and a moving image; give both, or a result")
        fixed, moving = hub.place(body.fixed), hub.place(body.moving)
        job = ViewerJob(
            fixed=fixed,
            moving=moving,
            out=hub.out / f"{moving.name.split('.')[0]}-onto-{fixed.name.split('.')[0]}",
            preset=body.preset,
            type=body.type,
            search=body.search,
            seed=body.seed,
        )
        for path in (fixed, moving):
            if not path.exists() and "::" not in path.name:
                raise InputError(f"{path.name}: no such file or folder; check the path")
        return session_document(hub.open(job))

    @api.get("/sessions/{name}")
    def state(name: str) -> dict[str, Any]:
        """Return everything about a session except the pictures."""
        return session_document(hub.get(name))

    @api.get("/sessions/{name}/news")
    async def news(name: str, since: int = -1) -> dict[str, Any]:
        """Wait until the session is newer than `since`, at most 20 seconds; return it then."""
        session = hub.get(name)
        until = time.monotonic() + WAIT
        while session.version <= since and time.monotonic() < until and not hub.closing and not session.closed:
            await asyncio.sleep(0.03)
        if hub.closing:
            raise MissingError("the server is closing")
        return await asyncio.to_thread(session_document, session)

    @api.delete("/sessions/{name}", status_code=204)
    def close(name: str) -> None:
        """Close a session; what was decided is kept for the next time these images are opened."""
        hub.close(name)

    @api.put("/uploads/{name}", status_code=201)
    async def upload(name: str, request: Request) -> dict[str, Any]:
        """Store the body of the request as a file; sessions name it as `upload:NAME`."""
        place = hub.upload_place(name)
        with tempfile.NamedTemporaryFile(dir=hub.uploads, delete=False) as stream:
            part = Path(stream.name)
            try:
                async for chunk in request.stream():
                    stream.write(chunk)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        part.replace(place)
        return {"place": f"upload:{name}", "bytes": place.stat().st_size}


def _pictures(api: APIRouter, hub: Hub) -> None:
    @api.get("/sessions/{name}/tiles/{layer}/{plane}/{index}/{level}/{column}/{row}", response_class=Response)
    def tile(
        name: str,
        layer: Layer,
        plane: str,
        index: int,
        level: Count,
        column: Count,
        row: Count,
        low: float | None = None,
        high: float | None = None,
    ) -> Response:
        """Return a tile of 512 pixels of a slice as PNG, row 0 on top.

        `warped` is the moving image through the transform, `before` as it lies, both on slices of the fixed one.
        `low` and `high` are the intensities shown as black and white.
        """
        session = hub.get(name)
        window = None if low is None or high is None else (low, high)
        side = layer if layer in ("fixed", "moving") else "fixed"
        shown = session.shown[side]
        cut = shown.plane(plane, index)
        if layer == "jacobian":
            fit = session.fitting.transform
            if fit is None:
                raise InputError("there is no transform yet")
            content = jacobian_tile(fit, cut, level, column, row)
        elif layer == "doubt":
            doubt = session.fitting.doubt
            if doubt is None:
                raise InputError("the uncertainty is still being measured")
            content = doubt_tile(doubt.radius, doubt.grid, doubt.most, cut, level, column, row)
        elif layer in ("warped", "before"):
            way = session.fitting.transform if layer == "warped" else None
            content = warped_tile(session.shown["moving"], cut, way, level, column, row, window=window)
        else:
            content = shown.tile(cut, level, column, row, window=window)
        return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=3600"})

    @api.get("/sessions/{name}/outlines/{side}/{plane}/{index}")
    def outlines(name: str, side: Side, plane: str, index: int) -> dict[str, Any]:
        """Return the outlines of all regions on a slice, in its pixels (column, row)."""
        return outlines_document(hub.get(name), side, plane, index)

    @api.get("/sessions/{name}/grid/{plane}/{index}")
    def grid(name: str, plane: str, index: int) -> dict[str, Any]:
        """Return the deformed grid on a slice of the fixed image, in its pixels."""
        session = hub.get(name)
        transform = session.fitting.transform
        lines = [] if transform is None else grid_lines(transform, session.shown["fixed"].plane(plane, index))
        return {"lines": lines}

    @api.post("/sessions/{name}/map")
    def map_points(name: str, body: PointsBody) -> dict[str, Any]:
        """Return where points of one side lie in the other, through the transform, and how far that may be off."""
        session = hub.get(name)
        mapped, radius = session.map_points(body.points or np.zeros((0, session.images[0].ndim)), body.side)
        other = session.shown["moving" if body.side == "fixed" else "fixed"].image.grid
        return {
            "points": mapped.tolist(),
            "radius": radius.tolist(),
            "inside": other.contains(mapped).tolist(),
            "linked": session.fitting.fit is not None,
        }


def _prompts(api: APIRouter, hub: Hub) -> None:
    @api.post("/sessions/{name}/prompt")
    def ask(name: str, body: PromptBody) -> dict[str, Any]:
        """Find the region that is meant and its counterpart, or say why there is none."""
        session = hub.get(name)
        d = session.images[0].ndim
        labels = body.labels or [1] * len(body.points)
        points = np.array(body.points, dtype=np.float64).reshape(-1, d) if body.points else np.zeros((0, d))
        box = None if body.box is None else np.array(body.box, dtype=np.float64)
        prompt = Prompt(points, np.array(labels, dtype=np.int64), box)
        return proposal_document(session.ask(prompt, body.side))

    @api.post("/sessions/{name}/prompt/scale")
    def ask_scale(name: str, body: ScaleBody) -> dict[str, Any]:
        """Take a larger or smaller region at the same place."""
        return proposal_document(hub.get(name).ask_scale(body.step))

    @api.post("/sessions/{name}/prompt/accept", status_code=201)
    def accept(name: str) -> dict[str, Any]:
        """Make the answer a pair."""
        return {"id": hub.get(name).accept_proposal()}

    @api.delete("/sessions/{name}/prompt", status_code=204)
    def dismiss(name: str) -> None:
        """Forget the answer."""
        hub.get(name).dismiss()


def _pairs(api: APIRouter, hub: Hub) -> None:
    @api.patch("/sessions/{name}/pairs/{number}")
    def change(name: str, number: int, body: PairBody) -> dict[str, Any]:
        """Accept, reject or rename a pair."""
        session = hub.get(name)
        with session.lock:
            board = session.board
            if body.status is not None and body.status != board.pair(number).status:
                session.decide(board.with_status(number, body.status), body.status, pair=number)
            if body.name is not None:
                board = session.board
                named = replace(board.pair(number), name=body.name.strip() or None)
                session.decide(board.with_pair(named), "name", refits=False, pair=number)
        return session_document(session)

    @api.delete("/sessions/{name}/pairs/{number}", status_code=204)
    def delete(name: str, number: int) -> None:
        """Delete a pair; its number is not used again."""
        session = hub.get(name)
        with session.lock:
            session.decide(session.board.without_pair(number), "delete", pair=number)

    @api.post("/sessions/{name}/pairs/{number}/brush")
    def brush(name: str, number: int, body: BrushBody) -> dict[str, Any]:
        """Add a stroke to a region of a pair, or take it away."""
        session = hub.get(name)
        points = np.array(body.points, dtype=np.float64).reshape(len(body.points), -1)
        if points.shape[1] != session.images[0].ndim:
            raise InputError(f"expected points of {session.images[0].ndim} numbers each")
        session.brush(number, body.side, points, body.radius, erase=body.erase)
        return session_document(session)

    @api.post("/sessions/{name}/labels")
    def labels(name: str, body: FilesBody) -> dict[str, Any]:
        """Take the classes of two label maps as accepted pairs."""
        if body.fixed is None or body.moving is None:
            raise InputError("regions need the label maps of both images")
        return {"count": take_labels(hub.get(name), hub.place(body.fixed), hub.place(body.moving))}

    @api.post("/sessions/{name}/pairs")
    def add(name: str, place: Annotated[str, Body(embed=True)]) -> dict[str, Any]:
        """Take the pairs of a folder or .zip."""
        return {"count": take_pairs(hub.get(name), hub.place(place))}

    @api.post("/sessions/{name}/undo")
    def undo(name: str) -> dict[str, Any]:
        """Take back the last change."""
        return {"undone": hub.get(name).undo()}

    @api.post("/sessions/{name}/redo")
    def redo(name: str) -> dict[str, Any]:
        """Do again what was taken back."""
        return {"done": hub.get(name).undo(forward=True)}


def _landmarks(api: APIRouter, hub: Hub) -> None:
    @api.post("/sessions/{name}/landmarks", status_code=201)
    def place(name: str, body: LandmarkBody) -> dict[str, Any]:
        """Set a landmark in one image."""
        return {"id": hub.get(name).place_landmark(body.side, body.point, body.id, body.name)}

    @api.patch("/sessions/{name}/landmarks/{number}")
    def rename(name: str, number: int, label: Annotated[str, Body(embed=True, max_length=80)]) -> dict[str, Any]:
        """Name a landmark."""
        session = hub.get(name)
        with session.lock:
            mark = _landmark(session, number)
            named = replace(mark, name=label.strip() or mark.name)
            session.decide(session.board.with_landmark(named), "name landmark", refits=False, landmark=number)
        return {"id": number}

    @api.delete("/sessions/{name}/landmarks/{number}", status_code=204)
    def delete(name: str, number: int) -> None:
        """Delete a landmark."""
        session = hub.get(name)
        with session.lock:
            _landmark(session, number)
            session.decide(session.board.without_landmark(number), "delete landmark", refits=False, landmark=number)

    @api.post("/sessions/{name}/landmarks/files")
    def files(name: str, body: FilesBody) -> dict[str, Any]:
        """Take the points of files as landmarks; equal rows are one."""
        places = [None if text is None else hub.place(text) for text in (body.fixed, body.moving)]
        return {"count": take_points(hub.get(name), *places)}

    @api.get("/sessions/{name}/landmarks/{side}.{kind}", response_class=Response)
    def download(name: str, side: Side, kind: Literal["csv", "mrk.json"]) -> Response:
        """Return the landmarks of a side as a file: CSV, or markups of Slicer."""
        points = landmark_sets(hub.get(name))[side]
        if not len(points):
            raise InputError(f"there is no landmark in the {side} image")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"landmarks_{side}.{kind}"
            write_points(file, points)
            content = file.read_bytes()
        return Response(content, media_type="text/csv" if kind == "csv" else "application/json")


def _landmark(session: PairSession, number: int) -> Landmark:
    for mark in session.board.landmarks:
        if mark.number == number:
            return mark
    raise InputError(f"there is no landmark {number}")


def _fits(api: APIRouter, hub: Hub) -> None:
    @api.post("/sessions/{name}/fit", status_code=202)
    def fit(name: str, body: FitBody) -> dict[str, Any]:
        """Begin a registration from the decisions as they are."""
        return hub.get(name).fitting.start(body.kind).document()

    @api.delete("/sessions/{name}/fit", status_code=204)
    def cancel(name: str) -> None:
        """Stop the fit or export that is running."""
        task = hub.get(name).fitting.task
        if task is not None:
            task.stop()

    @api.put("/sessions/{name}/live")
    def live(name: str, body: LiveBody) -> dict[str, Any]:
        """Say whether edits are followed by refits."""
        session = hub.get(name)
        session.fitting.set_live(body.live)
        return {"live": body.live}

    @api.post("/sessions/{name}/export", status_code=202)
    def export_all(name: str, body: ExportBody) -> dict[str, Any]:
        """Write the result folder, as `roireg register` does, with landmarks and decisions."""
        session = hub.get(name)
        out = hub.out_place(body.folder, session)
        return session.fitting.run("export", partial(export, session, out)).document()
