"""Which other computers images may be sent to: none, unless the user of this process says so.

A settings file or the name of a model cannot allow it; a call of `allow_remote` or ``--allow-remote HOST`` can.
"""

from __future__ import annotations

import ipaddress

from roireg.core.errors import InputError

__all__ = ["allow_remote", "is_this_computer", "require_allowed"]

_allowed: set[str] = set()


def allow_remote(host: str) -> None:
    """Let models send images to a computer, for the rest of this process.

    Parameters
    ----------
    host : its name or address, without protocol and port, as in the address of the model.

    Raises
    ------
    InputError
        When it is no host.
    """
    if not host or any(character in host for character in "/@ *"):
        raise InputError(f"{host!r} is no host; give a name or an address without protocol and port, as gpu.lab.org")
    _allowed.add(host.strip("[]").lower())


def is_this_computer(host: str) -> bool:
    """Return whether a host is the computer itself, by its name or address."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_allowed(host: str) -> str:
    """Return a host that images may be sent to.

    Raises
    ------
    InputError
        When it is another computer that was not allowed.
    """
    if not is_this_computer(host) and host.lower() not in _allowed:
        raise InputError(
            f"this model would send images to {host}, another computer; allow it with --allow-remote {host} (in "
            f'Python allow_remote("{host}")), or use a server on this one'
        )
    return host
