"""A server that speaks the part of the nnInteractive protocol that the client uses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from scipy import ndimage

wire = pytest.importorskip("nnInteractive.inference.remote.serialization", reason="needs nninteractive-client")


class Server(ThreadingHTTPServer):
    """Speaks the part of the protocol that is used; a prompt selects the bright component it lies in."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls: list[str] = []
        self.leases = 0
        self.expire = False
        self.answer: tuple[int, str] | None = None
        self.image = np.zeros((1, 1, 1, 1))
        self.mask = np.zeros((1, 1, 1), dtype=np.uint8)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format, *args):
        """Keep the test output clean."""

    def do_GET(self):
        self._json(
            {
                "supported_interactions": {"points": True, "bbox2d": True},
                "channel_mapping": {"points": [0, 1]},
                "num_interaction_channels": 7,
                "supports_initial_label": True,
                "supports_zero_shot_label_refinement": False,
                "preferred_scribble_thickness": [2, 2, 2],
                "interaction_decay": 0.98,
                "inference_session_version": "2",
            }
        )

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        call = self.path.strip("/")
        self.server.calls.append(call)
        if self.server.answer is not None and call != "release":
            return self._json({"detail": self.server.answer[1]}, status=self.server.answer[0])
        if call == "claim":
            self.server.leases += 1
            return self._json({"lease_token": f"t{self.server.leases}"})
        if call == "set_image" and self.server.expire:
            self.server.expire = False
            return self._json({"detail": "lease expired"}, status=410)
        return getattr(self, f"_{call}", lambda body: self._json({}))(body)

    def _set_image(self, body):
        self.server.image = wire.unpack_array(body)
        self._json({"original_image_shape": list(self.server.image.shape)})

    def _set_target_buffer(self, body):
        self.server.mask = np.zeros(json.loads(body)["shape"], dtype=np.uint8)
        self._json({})

    def _reset_interactions(self, body):
        self.server.mask[:] = 0
        self._json({})

    def _add_point_interaction(self, body):
        asked = json.loads(body)
        parts = ndimage.label(self.server.image[0] > 100)[0]
        part = parts == parts[tuple(asked["coordinates"])]
        self.server.mask[part] = asked["include_interaction"]
        self._predicted(asked["run_prediction"])

    def _add_bbox_interaction(self, body):
        asked = json.loads(body)
        self.server.mask[tuple(slice(*b) for b in asked["bbox_coords"])] = 1
        self._predicted(asked["run_prediction"])

    def _add_initial_seg_interaction(self, body):
        self.server.mask[:] = wire.unpack_array(body)
        self._predicted(True)

    def _predicted(self, ran):
        box = [[0, n] for n in self.server.mask.shape]
        meta = json.dumps({"ran_prediction": ran, "bbox": box if ran else None})
        self._send(wire.pack_array(self.server.mask) if ran else b"", {"X-Meta": meta})

    def _json(self, content, status=200):
        self._send(json.dumps(content).encode(), {"Content-Type": "application/json"}, status)

    def _send(self, body, headers, status=200):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Server]:
    """A server that runs inside the block."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()
