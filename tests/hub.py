"""A hub of models on this machine: the few requests by which huggingface_hub finds and fetches files."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve_hub(files: Mapping[str, bytes], name: str = "org/model") -> Iterator[tuple[str, list[str]]]:
    """Serve one model with these files, at one commit; the URL, and the files that were asked for so far."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = urlsplit(self.path).path.lstrip("/")
            if path.startswith(f"api/models/{name}/tree/"):
                sizes = {file: len(content) for file, content in files.items()}
                tree = [{"type": "file", "path": file, "size": size, "oid": "0" * 40} for file, size in sizes.items()]
                self.send(json.dumps(tree).encode())
            elif path.startswith(f"api/models/{name}"):
                self.send(json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())
            elif path.startswith(f"{name}/resolve/") and (file := path.split("/", 4)[4]) in files:
                asked.append(file)
                self.send(files[file], etag=hashlib.sha256(files[file]).hexdigest())
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound" if "/resolve/" in path else "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def send(self, content: bytes, etag: str = "none") -> None:
            self.send_response(200)
            for key, value in {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Content-Length": len(content)}.items():
                self.send_header(key, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def use_hub(patch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Let huggingface_hub ask the hub at `url`, and keep what it fetches in `cache`."""
    patch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
