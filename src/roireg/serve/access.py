"""Who may ask what: the token, the host, the size of a request, and the folders that paths may name."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roireg.core.errors import InputError

__all__ = ["Guard", "ForbiddenPathError", "confined"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HOSTS = ("127.0.0.1", "localhost", "[::1]")
LARGEST_BODY = 4_000_000
"""Bytes of a request that is no upload."""

SAFE_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; "
        b"connect-src 'self'; font-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class ForbiddenPathError(InputError):
    """A path leads out of the folders that the server was given."""


def confined(text: str, roots: Sequence[Path]) -> Path:
    """Return the place that a path of a request names; relative ones lie in the first folder that has them.

    Links are followed before the place is judged.

    Raises
    ------
    ForbiddenPathError
        When it does not lie in one of the folders, or there are none.
    """
    if "\0" in text:
        raise ForbiddenPathError("a path has no zero bytes")
    name, series, uid = text.partition("::")
    for root in roots:
        base = root.resolve()
        place = (base / name).resolve()
        if place == base or base in place.parents:
            if not place.exists() and root != roots[-1]:
                continue
            return Path(f"{place}{series}{uid}")
    raise ForbiddenPathError(f"{text}: this is outside the folders that the server was given; name one with --root")


@dataclass(frozen=True)
class Guard:
    """Lets requests with the token through, of this computer alone, and no larger than allowed.

    Parameters
    ----------
    app : what answers. token : the secret. largest_upload : bytes.
    """

    app: App
    token: str
    largest_upload: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse, one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        path: str = scope["path"]

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((name, value) for name, value in SAFE_HEADERS if name not in own),
                ]
            await send(message)

        host = headers.get(b"host", b"").decode("latin-1")
        if host.rpartition(":")[0] not in HOSTS and host not in HOSTS:
            await _refuse(guarded, 421, "this server answers at 127.0.0.1 alone")
            return
        if path.startswith("/api/"):
            given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            if not hmac.compare_digest(given, self.token.encode()):
                await _refuse(
                    guarded,
                    401,
                    "the token is missing or of an earlier start; open the address the server printed",
                )
                return
        limit = self.largest_upload if path.startswith("/api/uploads/") else LARGEST_BODY
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > limit:
            await _refuse(guarded, 413, f"the request is larger than {limit // 1_000_000} MB, the most that is taken")
            return
        await self.app(scope, _counted(receive, limit), guarded)


class _TooLargeError(InputError):
    """A body without a length turned out to be larger than allowed."""


def _counted(receive: Receive, limit: int) -> Receive:
    size = 0

    async def counted() -> MutableMapping[str, Any]:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise _TooLargeError(f"the request is larger than {limit // 1_000_000} MB, the most that is taken")
        return message

    return counted


async def _refuse(send: Send, status: int, why: str) -> None:
    body = f'{{"detail": "{why}"}}'.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
