"""A Hub on the loopback interface: the endpoints that huggingface_hub calls to download, over folders on the disk."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants as constants


@dataclass
class Hub:
    """Repositories by id; each has revisions (branch or tag -> folder) and may ask for a token."""

    url: str = ""
    revisions: dict[str, dict[str, Path]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)  # "GET /path", in order

    def downloaded(self) -> set[str]:
        """The files whose content was fetched."""
        return {unquote(r.split("/resolve/", 1)[1].split("/", 1)[1]) for r in self.requests if r.startswith("GET /o")}

    def folder(self, repo_id: str, revision: str) -> Path | None:
        """The folder of a revision, named by branch, tag or commit."""
        revisions = self.revisions[repo_id]
        return {**revisions, **{commit_of(name): path for name, path in revisions.items()}}.get(revision)


def commit_of(revision: str) -> str:
    """A commit hash for a branch or tag."""
    return hashlib.sha1(revision.encode()).hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _blob(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *arguments) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = api or file
        repo_id = match[1] if match else ""
        if repo_id not in self.hub.revisions:
            return self._fail(404, "RepoNotFound")
        token = self.hub.tokens.get(repo_id)
        if token and self.headers.get("Authorization") != f"Bearer {token}":
            return self._fail(401, "RepoNotFound")  # the Hub does not tell private from absent
        revision = (api[3] or "main") if api else file[2]
        folder = self.hub.folder(repo_id, revision)
        if folder is None:
            return self._fail(404, "RevisionNotFound")
        commit = next(commit_of(r) for r in self.hub.revisions[repo_id] if revision in (r, commit_of(r)))
        files = _files(folder)
        if api and api[2] == "tree":
            rows = [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": _blob(path)}
                for name, path in files.items()
            ]
            return self._send(json.dumps(rows).encode(), {}, with_body)
        if api:
            siblings = [{"rfilename": name} for name in files]
            info = {"id": repo_id, "modelId": repo_id, "sha": commit, "siblings": siblings, "private": bool(token)}
            return self._send(json.dumps(info).encode(), {}, with_body)
        if file[3] not in files:
            return self._fail(404, "EntryNotFound")
        content = files[file[3]].read_bytes()
        headers = {"ETag": f'"{_blob(files[file[3]])}"', "X-Repo-Commit": commit}
        return self._send(content, headers, with_body)

    def _send(self, content: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def loopback_hub(monkeypatch) -> Iterator[Hub]:
    """Serves an empty Hub, and makes huggingface_hub ask it, as $HF_ENDPOINT would have at the start of the process."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
