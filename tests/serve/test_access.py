"""Nothing answers without the token, and no request reads, writes or sends more than it may."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from roireg.serve.access import ForbiddenPathError, confined
from serve.conftest import TOKEN, opened


@pytest.mark.parametrize("header", [None, "Bearer wrong", f"Basic {TOKEN}", "Bearer "])
def test_a_wrong_token_opens_nothing(http: TestClient, header: str | None) -> None:
    http.headers.pop("authorization")
    if header is not None:
        http.headers["authorization"] = header
    for method, path in (("GET", "/api/sessions"), ("POST", "/api/sessions"), ("PUT", "/api/uploads/a.png")):
        answer = http.request(method, path, json={})
        assert answer.status_code == 401
        assert "token" in answer.json()["detail"]


def test_another_host_name_is_refused(http: TestClient) -> None:
    # A page of another site whose name is made to lead here would send that name.
    answer = http.get("/api/sessions", headers={"host": "evil.example:8000"})
    assert answer.status_code == 421


def test_answers_forbid_what_comes_from_elsewhere(http: TestClient) -> None:
    headers = http.get("/api/sessions").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "path",
    ["../secret.png", "/etc/passwd", "sub/../../secret.png", "link.png", "upload:../../secret.png", "..", "a\0b"],
)
def test_no_path_leaves_the_folders(http: TestClient, folder: Path, path: str) -> None:
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    answer = http.post("/api/sessions", json={"fixed": path, "moving": "moving.png"})
    assert answer.status_code == 403, answer.text
    assert http.get("/api/sessions").json() == []


def test_without_folders_uploads_alone_are_opened() -> None:
    with pytest.raises(ForbiddenPathError, match="outside the folders"):
        confined("fixed.png", [])


def test_results_stay_in_their_folder(http: TestClient, folder: Path) -> None:
    flat = opened(http)
    assert flat("POST", "/export", {"folder": "../elsewhere"})[0] == 403
    assert not (folder.parent / "elsewhere").exists()


def test_a_large_upload_is_refused_and_leaves_nothing(http: TestClient, hub) -> None:
    answer = http.put("/api/uploads/big.png", content=b"x" * 200_000)
    assert answer.status_code == 413

    def pieces():
        for _ in range(40):
            yield b"x" * 10_000

    # Without a length it is counted on the way.
    answer = http.put("/api/uploads/big.png", content=pieces())
    assert answer.status_code in (413, 422)
    assert list(hub.uploads.iterdir()) == []


def test_a_large_request_is_refused(http: TestClient) -> None:
    points = [[1.0, 2.0]] * 10
    answer = http.post(
        "/api/sessions/x/map", json={"side": "fixed", "points": points}, headers={"content-length": "9999999"}
    )
    assert answer.status_code == 413


@pytest.mark.parametrize("name", ["..", ".hidden", "a%2Fb", "a b"])
def test_uploads_have_plain_names(http: TestClient, name: str, hub) -> None:
    assert http.put(f"/api/uploads/{name}", content=b"x").status_code in (404, 405, 422)
    assert list(hub.uploads.iterdir()) == []


def test_uploaded_images_make_a_pair(http: TestClient, folder: Path) -> None:
    for side in ("fixed", "moving"):
        answer = http.put(f"/api/uploads/{side}.png", content=(folder / f"{side}.png").read_bytes())
        assert answer.json()["place"] == f"upload:{side}.png"
    answer = http.post("/api/sessions", json={"fixed": "upload:fixed.png", "moving": "upload:moving.png"})
    assert answer.status_code == 201
    assert answer.json()["sides"]["fixed"]["title"] == "fixed.png"


def test_the_description_of_the_api_names_every_path(http: TestClient) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    assert "/api/sessions/{name}/prompt" in paths
    assert all(call.get("summary") for path in paths.values() for call in path.values())


def test_unbuilt_pages_say_how_they_are_built(http: TestClient, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("roireg.serve.api.STATIC", tmp_path)
    answer = http.get("/")
    assert answer.status_code == 503 and "make viewer" in answer.text
    assert http.get("/assets/..%2f..%2fsecret.png").status_code == 404
