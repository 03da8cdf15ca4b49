"""A CA of one's own, and a server on loopback whose certificate it has signed."""

import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest


def make_authority(directory: Path) -> None:
    """Write `ca.pem`, and `cert.pem` and `key.pem` for localhost, which the CA has signed."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is needed to make certificates")
    new = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    subprocess.run(
        [*new, "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem"],
        cwd=directory, check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(
        [*new, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-addext", "basicConstraints=critical,CA:FALSE",
         "-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=directory, check=True, capture_output=True,
    )  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    """Says `trusted`; and ranks as Relace does: each file fits."""

    def do_GET(self) -> None:
        self._answer(b"trusted")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        results = [{"filename": one["filename"], "score": 1} for one in asked["codebase"]]
        self._answer(json.dumps({"results": results}).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Tests are silent."""


class _Server(HTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that does not trust us leaves: that is what is tested."""


@contextmanager
def https_server(authority: Path) -> Iterator[int]:
    """The server; yields its port.

    Args:
        authority: the directory that `make_authority` has filled.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
