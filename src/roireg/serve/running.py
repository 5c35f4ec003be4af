"""A server that runs: in a thread of its own, on this computer alone, and gone without a trace when it is closed."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from roireg.core.errors import InputError
from roireg.serve.api import make_app
from roireg.serve.hub import Hub

__all__ = ["LARGEST_UPLOAD", "Server", "running"]

LARGEST_UPLOAD = 2_000_000_000
"""Bytes of one uploaded file."""

CLOSING = 3
"""Seconds that open requests are given at the end."""


def _told(record: logging.LogRecord) -> bool:
    """Tell whether a message of uvicorn is news: requests that are cut off at the end are not."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


class Server:
    """A server with its sessions.

    Parameters
    ----------
    hub : the sessions. port : 0 takes any that is free. largest_upload : bytes of a file.

    Raises
    ------
    InputError
        When the port is taken.
    """

    def __init__(self, hub: Hub, *, port: int = 0, largest_upload: int = LARGEST_UPLOAD) -> None:
        self.hub, self.token = hub, secrets.token_urlsafe(24)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(("127.0.0.1", port))
        except OSError as error:
            self._socket.close()
            raise InputError(f"port {port} is taken ({error.strerror}); choose another with --port") from error
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            make_app(hub, self.token, largest_upload=largest_upload),
            log_level="error",
            access_log=False,
            timeout_graceful_shutdown=CLOSING,
            lifespan="off",
            ws="none",
        )
        logging.getLogger("uvicorn.error").addFilter(_told)  # once, however often
        self._server = uvicorn.Server(config)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def origin(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def address(self, session: str | None = None) -> str:
        """Return what a browser opens; the part after # stays in the browser."""
        return f"{self.origin}/#token={self.token}" + (f"&session={session}" if session else "")

    def start(self) -> Server:
        """Begin to answer; return the server itself."""
        self._thread.start()
        while not self._server.started and not self._ended.is_set():
            time.sleep(0.01)
        return self

    def wait(self) -> None:
        """Wait until it is closed, or Ctrl-C."""
        while not self._ended.wait(0.5):
            pass

    def close(self) -> bool:
        """Stop answering, stop what is computed, keep what was decided; return whether all of it has stopped."""
        self.hub.closing = True
        self._server.should_exit = True
        stopped = self._thread.ident is None or self._ended.wait(CLOSING + 2)
        ended = self.hub.end(wait=CLOSING)
        self._socket.close()
        return ended and stopped

    def _run(self) -> None:
        # Not `Thread.join`: before Python 3.13 a signal that interrupts it makes a thread that runs count as ended.
        try:
            self._server.run([self._socket])
        finally:
            self._ended.set()


@contextmanager
def running(
    *,
    roots: Sequence[str | Path] = (),
    out: str | Path = ".",
    keep: str | Path | None = None,
    port: int = 0,
    largest_upload: int = LARGEST_UPLOAD,
) -> Iterator[Server]:
    """Run a server for the time of a ``with`` block.

    Parameters
    ----------
    roots : folders whose files requests may open. out : folder that results go into.
    keep : folder of unfinished work; None keeps nothing.
    port, largest_upload : see `Server`.
    """
    hub = Hub([Path(r) for r in roots], Path(out), None if keep is None else Path(keep))
    server = Server(hub, port=port, largest_upload=largest_upload).start()
    try:
        yield server
    finally:
        server.close()
