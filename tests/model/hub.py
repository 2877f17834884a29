"""A model hub on this machine, as far as longspan asks one: files with ranges, and its ways to refuse."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = hashlib.sha1(b"commit").hexdigest()
REFUSALS = {"gated": (403, "GatedRepo"), "absent": (401, "RepoNotFound"), "revision": (404, "RevisionNotFound")}


class _Handler(BaseHTTPRequestHandler):
    root: Path
    asked: list[tuple[str, int]]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        parts = urlsplit(self.path).path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._listing("/".join(parts[2:4]))
        _owner, name, _, revision, *rest = [*parts, "", "", ""]
        file = self.root / name / "/".join(rest).strip("/")
        if name in REFUSALS or revision == "nowhere":
            status, code = REFUSALS.get(name, REFUSALS["revision"])
            return self._send(status, b"", {"X-Error-Code": code}, with_body=with_body)
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body=with_body)
        data = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        wanted, status = self.headers.get("Range"), 200
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            headers["Content-Range"] = f"bytes {first}-{min(int(last), len(data) - 1)}/{len(data)}"
            data, status = data[int(first) : int(last) + 1], 206
        if with_body:
            self.asked.append((file.name, len(data)))
        return self._send(status, data, headers, with_body=with_body)

    def _listing(self, repository: str) -> None:
        folder = self.root / repository.split("/")[-1]
        siblings = [{"rfilename": path.name} for path in sorted(folder.iterdir())] if folder.is_dir() else []
        self._send(
            200, json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode(), {}, with_body=True
        )

    def _send(self, status: int, data: bytes, headers: dict[str, str], *, with_body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve_hub(root: Path) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """URL of a hub whose model `owner/NAME` is the folder ROOT/NAME, and the (file, bytes) that were fetched of it."""
    asked: list[tuple[str, int]] = []
    handler = type("Handler", (_Handler,), {"root": root, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
