"""A model hub on this machine, as far as huggingface_hub needs one: listings, files with ranges, and ways to refuse."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

COMMIT = hashlib.sha1(b"commit").hexdigest()
REFUSALS = {"gated": (403, "GatedRepo"), "absent": (401, "RepoNotFound"), "revision": (404, "RevisionNotFound")}
Requests = list[tuple[str, int]]


class _Handler(BaseHTTPRequestHandler):
    root: Path
    requests: Requests

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path).path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._listing("/".join(parts[2:4]), is_tree="tree" in parts[4:5])
        _owner, name, _, revision, *rest = [*parts, "", "", ""]
        inside = "/".join(rest).strip("/")
        file = self.root / name / inside
        if name in REFUSALS or revision == "nowhere":
            status, code = REFUSALS.get(name, REFUSALS["revision"])
            return self._send(status, b"", {"X-Error-Code": code})
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        wanted, status = self.headers.get("Range"), 200
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            headers["Content-Range"] = f"bytes {first}-{min(int(last), len(data) - 1)}/{len(data)}"
            data, status = data[int(first) : int(last) + 1], 206
        self.requests.append((inside, len(data) if self.command == "GET" else 0))
        return self._send(status, data, headers)

    def _listing(self, repository: str, is_tree: bool) -> None:
        folder = self.root / repository.split("/")[-1]
        if not folder.is_dir():
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
        tree = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes.items()]
        model = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in sizes]}
        return self._send(200, json.dumps(tree if is_tree else model).encode(), {})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serve_hub(root: Path) -> Iterator[tuple[str, Requests]]:
    """URL of a hub whose model `owner/NAME` is the folder ROOT/NAME, and (file, bytes answered) of each request."""
    requests: Requests = []
    handler = type("Handler", (_Handler,), {"root": root, "requests": requests})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        server.server_close()


def use_hub(patch: pytest.MonkeyPatch, url: str, cache: Path | None = None) -> None:
    """Let huggingface_hub use the hub at `url`, and keep what it fetches in `cache`, where one is given."""
    patch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    if cache is not None:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
