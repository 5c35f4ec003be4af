"""The viewer from Python: in a notebook, or in a browser beside a script."""

from __future__ import annotations

import atexit
import os
import tempfile
import webbrowser
from html import escape
from pathlib import Path
from typing import Any

from roireg.core.errors import InputError, InputTypeError
from roireg.core.image import Image
from roireg.io import write_image
from roireg.pipeline import Registration, SavedRegistration
from roireg.pipeline.inputs import images_of
from roireg.serve.exporting import ViewerJob
from roireg.serve.hub import Hub
from roireg.serve.running import Server

__all__ = ["View", "view"]

_SERVERS: list[Server] = []
"""The one server of this process, if there is one."""


class View:
    """An open pair; a notebook shows it as a frame.

    Attributes
    ----------
    address : what a browser opens. name : of the session. server : where it runs.
    """

    def __init__(self, server: Server, name: str, height: int) -> None:
        self.server, self.name, self.height = server, name, height

    @property
    def address(self) -> str:
        """What a browser opens."""
        return self.server.address(self.name)

    @property
    def registration(self) -> Registration | None:
        """The last registration of the session as a value; None before the first."""
        fit = self.server.hub.get(self.name).fitting.fit
        return None if fit is None else fit.registration

    def show(self) -> None:
        """Open it in a browser."""
        webbrowser.open(self.address)

    def close(self) -> None:
        """Close the session; the server ends with the last one."""
        self.server.hub.close(self.name)
        if not self.server.hub.sessions:
            _SERVERS.remove(self.server)
            self.server.close()

    def _repr_html_(self) -> str:
        return (
            f'<iframe src="{escape(self.address)}" title="roireg viewer" width="100%" height="{self.height}" '
            'style="border:1px solid #8888"></iframe>'
        )

    def __repr__(self) -> str:
        return f"View({self.address})"


def view(
    result: Any,
    moving: Any = None,
    *,
    out: str | Path = "roireg-view",
    height: int = 760,
    keep: str | Path | None = None,
) -> View:
    """Open a result, or two images, in the viewer.

    >>> import roireg
    >>> roireg.view(roireg.register("fixed.nii.gz", "moving.nii.gz"))  # doctest: +SKIP

    Parameters
    ----------
    result : a `Registration`, a result folder or `roireg.load` of one; or the fixed image, with `moving`, in every
        form that `roireg.register` takes.
    moving : the moving image.
    out : folder that Export writes. height : of the frame in a notebook, pixels.
    keep : folder that decisions which are not exported are kept in; None forgets them.

    Raises
    ------
    InputError
        When the images of a stored result are not where they were.
    """
    if not _SERVERS:
        _SERVERS.append(Server(Hub(keep=None if keep is None else Path(keep))).start())
        atexit.register(_end)
    server = _SERVERS[0]
    if moving is not None:
        fixed, moving = images_of(result, moving)
        session = server.hub.open(_job(server, fixed, moving, Path(out)), images=(fixed, moving))
    elif isinstance(result, Registration):
        job = _job(server, result.fixed, result.moving, Path(out))
        session = server.hub.open(job, images=(result.fixed, result.moving), result=result)
    elif isinstance(result, SavedRegistration | str | os.PathLike):
        folder = result.folder if isinstance(result, SavedRegistration) else Path(result)
        session = server.hub.open_result(folder, Path(out))
    else:
        raise InputTypeError(
            f"the viewer shows a registration, a result folder, or two images, found {type(result).__name__}"
        )
    return View(server, session.name, height)


def _job(server: Server, fixed: Image, moving: Image, out: Path) -> ViewerJob:
    """Return the job of two images; those that are in no file are written where the server keeps uploads."""
    places = []
    for image, side in ((fixed, "fixed"), (moving, "moving")):
        path = Path(image.name)
        if not path.is_file():
            kind = ".png" if image.ndim == 2 and image.dtype in ("uint8", "uint16") else ".nii.gz"
            path = Path(tempfile.mkdtemp(dir=server.hub.work)) / f"{side}{kind}"
            write_image(path, image)
        places.append(path)
    if len(set(places)) < 2:
        raise InputError("fixed and moving image are the same file; name two")
    return ViewerJob(fixed=places[0], moving=places[1], out=out)


def _end() -> None:
    while _SERVERS:
        _SERVERS.pop().close()
