"""A Hub on the loopback interface: the endpoints that huggingface_hub calls to download and to upload, over folders."""

import base64
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub.constants as constants

REPO = r"([^/]+/[^/]+)"


@dataclass
class Hub:
    """Repositories by id; each has revisions (branch or tag -> folder) and may ask for a token.

    Args:
        root: where pushed repositories are kept; None: nothing can be pushed.
        write_token: that pushing asks for.
        gated: repositories whose files ask for an agreement that nobody has given.
        cut: file -> bytes after which its next download breaks off, once.
        extra: files that listings name beside those of the folder; they have no content.
    """

    url: str = ""
    root: Path | None = None
    write_token: str = "hf_write"
    revisions: dict[str, dict[str, Path]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # "GET /path", in order
    ranges: list[tuple[str, str]] = field(default_factory=list)  # (file, Range header) of downloads that ask for a part
    private: dict[str, bool] = field(default_factory=dict)  # of created repositories
    commits: list[dict] = field(default_factory=list)  # repo, revision, summary, files; in order
    blobs: dict[str, bytes] = field(default_factory=dict)  # uploaded large files by SHA-256

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

    # --- downloads ---

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if path == "/api/whoami-v2":
            if self.headers.get("Authorization") != f"Bearer {self.hub.write_token}":
                return self._fail(401, "")
            return self._json({"name": "org", "type": "user", "auth": {"accessToken": {"role": "write"}}}, with_body)
        api = re.fullmatch(rf"/api/models/{REPO}(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(rf"/{REPO}/resolve/([^/]+)/(.+)", path)
        match = api or file
        repo_id = match[1] if match else ""
        if repo_id not in self.hub.revisions:
            return self._fail(404, "RepoNotFound")
        token = self.hub.tokens.get(repo_id)
        if token and self.headers.get("Authorization") != f"Bearer {token}":
            return self._fail(401, "RepoNotFound")  # the Hub does not tell private from absent
        if file and repo_id in self.hub.gated:
            return self._fail(403, "GatedRepo")
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
            rows += [{"type": "file", "path": name, "size": 4, "oid": "0" * 40} for name in self.hub.extra]
            return self._json(rows, with_body)
        if api:
            siblings = [{"rfilename": name} for name in (*files, *self.hub.extra)]
            info = {"id": repo_id, "modelId": repo_id, "sha": commit, "siblings": siblings, "private": bool(token)}
            return self._json(info, with_body)
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if file[3] in self.hub.extra:
            return self._send(b"evil", {**headers, "ETag": '"evil"'}, with_body)
        if file[3] not in files:
            return self._fail(404, "EntryNotFound")
        content = files[file[3]].read_bytes()
        return self._send(content, {**headers, "ETag": f'"{_blob(files[file[3]])}"'}, with_body, file[3])

    def _send(self, content: bytes, headers: dict[str, str], with_body: bool, name: str = "") -> None:
        start = 0
        asked = self.headers.get("Range") if with_body else None
        if asked:
            self.hub.ranges.append((name, asked))
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self.send_response(206 if asked else 200)
        for key, value in {"Content-Length": str(len(content) - start), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body and name in self.hub.cut:
            self.wfile.write(content[start : self.hub.cut.pop(name)])
            self.close_connection = True
        elif with_body:
            self.wfile.write(content[start:])

    def _json(self, content, with_body: bool = True) -> None:
        self._send(json.dumps(content).encode(), {"Content-Type": "application/json"}, with_body)

    def _fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    # --- uploads ---

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"POST {path}")
        if path == "/api/validate-yaml":
            return self._json({"warnings": [], "errors": []})
        if self.headers.get("Authorization") != f"Bearer {self.hub.write_token}":
            return self._fail(401, "")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        routes = {
            rf"/api/models/{REPO}/branch/(.+)": self._branch,
            rf"/api/models/{REPO}/preupload/(.+)": self._preupload,
            rf"/{REPO}\.git/info/lfs/objects/(batch)": self._batch,
            rf"/api/models/{REPO}/commit/(.+)": self._commit,
        }
        for pattern, handle in routes.items():
            match = re.fullmatch(pattern, path)
            if match:
                if match[1] not in self.hub.revisions:
                    return self._fail(404, "RepoNotFound")
                return handle(match[1], match[2], body)
        return self._fail(404, "")

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        oid = self.path.rpartition("/")[2]
        self.hub.requests.append(f"PUT {self.path}")
        if hashlib.sha256(content).hexdigest() != oid:
            return self._fail(400, "")
        self.hub.blobs[oid] = content
        return self._send(b"", {}, True)

    def _create(self, asked: dict) -> None:
        repo_id = f"{asked['organization']}/{asked['name']}"
        if repo_id in self.hub.revisions:
            self.send_response(409)
            content = json.dumps({"url": f"{self.hub.url}/{repo_id}"}).encode()
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return None
        folder = self.hub.root / repo_id / "main"
        folder.mkdir(parents=True)
        self.hub.revisions[repo_id] = {"main": folder}
        self.hub.private[repo_id] = asked.get("visibility") == "private"
        return self._json({"url": f"{self.hub.url}/{repo_id}"})

    def _branch(self, repo_id: str, branch: str, body: bytes) -> None:
        if branch in self.hub.revisions[repo_id]:
            return self._fail(409, "")
        folder = self.hub.root / repo_id / branch
        shutil.copytree(self.hub.revisions[repo_id]["main"], folder)
        self.hub.revisions[repo_id][branch] = folder
        return self._json({})

    def _preupload(self, repo_id: str, revision: str, body: bytes) -> None:
        large = (".safetensors", ".onnx")
        files = [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(large) else "regular", "shouldIgnore": False}
            for f in json.loads(body)["files"]
        ]
        self._json({"files": files})

    def _batch(self, repo_id: str, _: str, body: bytes) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repo_id: str, revision: str, body: bytes) -> None:
        folder = self.hub.revisions[repo_id].get(revision)
        if folder is None:
            return self._fail(404, "RevisionNotFound")
        lines = [json.loads(line) for line in body.splitlines() if line]
        written = {}
        for line in lines[1:]:
            value = line["value"]
            large = line["key"] == "lfsFile"
            written[value["path"]] = self.hub.blobs[value["oid"]] if large else base64.b64decode(value["content"])
        for name, content in written.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        header = lines[0]["value"]
        self.hub.commits.append(
            {
                "repo": repo_id,
                "revision": revision,
                "summary": header["summary"],
                "description": header["description"],
                "files": sorted(written),
            }
        )
        oid = hashlib.sha1(body).hexdigest()
        answer = {"commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}", "commitOid": oid, "success": True}
        if parse_qs(urlsplit(self.path).query).get("create_pr") == ["1"]:
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo_id}/discussions/1"
        return self._json(answer)


@contextmanager
def loopback_hub(monkeypatch, root: Path | None = None) -> Iterator[Hub]:
    """Serves an empty Hub, and makes huggingface_hub ask it, as $HF_ENDPOINT would have at the start of the process."""
    hub = Hub(root=root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # this Hub keeps large files as LFS does
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
