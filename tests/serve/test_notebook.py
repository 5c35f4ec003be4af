"""A result in a notebook: a frame that shows the session of a server in this process."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import roireg
from roireg.core.errors import InputError
from roireg.serve.running import running
from roireg.synth import SyntheticPair


def ask(origin: str, token: str, path: str) -> dict:
    request = urllib.request.Request(origin + path, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_a_result_is_shown_in_a_frame(photos: SyntheticPair, known, tmp_path: Path) -> None:
    shown = roireg.view(known[1], out=tmp_path / "out")
    try:
        assert shown.address in shown._repr_html_().replace("&amp;", "&")
        assert "127.0.0.1" in shown.address and shown.server.token in shown.address
        state = ask(shown.server.origin, shown.server.token, f"/api/sessions/{shown.name}")
        assert state["fitting"]["fit"]["verdict"] == known[1].verdict
        assert len(state["pairs"]) == len(known[1].pairs)
        assert shown.registration is known[1]
        shown.server.hub.get(shown.name).preparing.join(60)
    finally:
        shown.close()
    with pytest.raises(urllib.error.URLError):
        ask(shown.server.origin, shown.server.token, "/api/sessions")


def test_other_things_are_refused() -> None:
    with pytest.raises(TypeError, match="found int"):
        roireg.view(3)


def test_a_server_closes_cleanly_and_frees_its_port(tmp_path: Path) -> None:
    with running(out=tmp_path) as server:
        port, work = server.port, server.hub.work
        assert ask(server.origin, server.token, "/api/sessions") == []
        with pytest.raises(InputError, match="is taken"), running(port=port):
            pass
    assert not work.exists()
    assert server.close(), "nothing is left running"
    with running(port=port, out=tmp_path) as again:
        assert again.port == port and again.token != server.token
