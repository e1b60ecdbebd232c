"""A stand-in of the Hugging Face hub on the loopback: the endpoints that upload and download of a model need."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

#: Who may write, and who may only read what is public.
WRITER, READER = "hf_writer", "hf_reader"
#: Files of this kind are large ones, which the hub keeps by their SHA-256.
LARGE = ".safetensors"


@dataclass
class Repository:
    """Commits, each of which is all its files, and branches."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        self.messages.append(message)
        known = json.dumps([sorted(map(str, files.items())), self.messages])
        name = hashlib.sha1(known.encode(), usedforsecurity=False).hexdigest()
        self.commits[name], self.branches[branch] = files, name
        return name


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Hub:
    """Repositories by name, large files by hash, and what was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.url = ""

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        repository = self.repositories[name]
        return repository.commits[repository.branches[branch]]

    def make(self, name: str, private: bool = False, **files: bytes) -> None:
        self.repositories[name] = Repository(private)
        self.repositories[name].commit("main", {".gitattributes": b"", **files}, "initial commit")

    # --- what is asked, in the order of an upload and then of a download

    def answer(self, method: str, path: str, body: bytes, token: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(f"{method} {path}")
        for pattern, call in self.routes(token):
            if found := re.fullmatch(pattern, f"{method} {path}"):
                given = list(map(unquote, found.groups()))
                if given and pattern != UPLOAD:
                    repository = self.repositories.get(given[0])
                    if repository is None or (repository.private and token != WRITER):
                        return error(404 if token else 401, "RepoNotFound")
                return call(body, *given)
        return error(404, "")

    def routes(self, token: str):
        may_write = token == WRITER
        name = r"([^/]+/[^/]+)"
        yield rf"GET /api/models/{name}", lambda _, one: self.info(one, "main")
        yield rf"GET /api/models/{name}/revision/(.+)", lambda _, *given: self.info(*given)
        yield rf"GET /api/models/{name}/tree/([^?]+)\?.*", lambda _, *given: self.tree(*given)
        yield rf"(?:GET|HEAD) /{name}/resolve/([^/]+)/(.+)", lambda _, *given: self.file(*given)
        yield UPLOAD, self.upload  # its address is the permission
        if not may_write:
            yield r"(?:POST|PUT) .*", lambda *_: error(403, "")
        yield r"POST /api/repos/create", self.create
        yield r"POST /api/validate-yaml", validate
        yield rf"POST /api/models/{name}/branch/(.+)", self.branch
        yield rf"POST /api/models/{name}/preupload/(.+)", preupload
        yield rf"POST /{name}\.git/info/lfs/objects/batch", self.batch
        yield rf"POST /api/models/{name}/commit/(.+)", self.commit

    def create(self, body: bytes):
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        self.make(name, asked.get("visibility") == "private" or asked.get("private") is True)
        return reply({"url": f"{self.url}/{name}"})

    def branch(self, _: bytes, name: str, branch: str):
        branches = self.repositories[name].branches
        if branch in branches:
            return error(409, "")
        branches[branch] = branches["main"]
        return reply({})

    def batch(self, body: bytes, _: str):
        objects = [
            one | {"actions": {"upload": {"href": f"{self.url}/large/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        return reply({"transfer": "basic", "objects": objects})

    def upload(self, body: bytes, oid: str):
        if hashlib.sha256(body).hexdigest() != oid:
            return error(400, "")
        self.large[oid] = body
        return reply({})

    def commit(self, body: bytes, name: str, branch: str):
        files, message = dict(self.files(name, branch)), ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.repositories[name].commit(branch, files, message)
        return reply({"commitUrl": f"{self.url}/{name}/commit/{commit}", "commitOid": commit})

    def resolved(self, name: str, revision: str) -> str | None:
        repository = self.repositories[name]
        commit = repository.branches.get(revision, revision)
        return commit if commit in repository.commits else None

    def info(self, name: str, revision: str):
        if (commit := self.resolved(name, revision)) is None:
            return error(404, "RevisionNotFound")
        repository = self.repositories[name]
        files = [{"rfilename": path} for path in repository.commits[commit]]
        return reply({"id": name, "sha": commit, "private": repository.private, "siblings": files})

    def tree(self, name: str, revision: str):
        if (commit := self.resolved(name, revision)) is None:
            return error(404, "RevisionNotFound")
        return reply([entry(path, content) for path, content in self.repositories[name].commits[commit].items()])

    def file(self, name: str, revision: str, path: str):
        commit = self.resolved(name, revision)
        content = self.repositories[name].commits[commit].get(path) if commit else None
        if content is None:
            return error(404, "EntryNotFound" if commit else "RevisionNotFound")
        known = hashlib.sha256(content).hexdigest() if path.endswith(LARGE) else git_hash(content)
        return 200, {"ETag": f'"{known}"', "X-Repo-Commit": commit or ""}, content


UPLOAD = r"PUT /large/(.+)"


def entry(path: str, content: bytes) -> dict[str, object]:
    facts: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
    if path.endswith(LARGE):
        facts["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return facts


def validate(body: bytes):
    """The header of a card is YAML with a licence of the hub's list, as far as the tests need it."""
    import yaml

    header = yaml.safe_load(json.loads(body)["content"].split("---")[1])
    if header["license"] not in ("other", "cc-by-nc-4.0"):
        content = json.dumps({"errors": [{"message": '"license" must be one of [apache-2.0, …]'}], "warnings": []})
        return 400, {}, content.encode()
    return reply({"errors": [], "warnings": []})


def preupload(body: bytes, *_: str):
    modes = [
        {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular", "shouldIgnore": False}
        for one in json.loads(body)["files"]
    ]
    return reply({"files": modes})


def reply(content: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def error(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
    return status, {"X-Error-Code": code} if code else {}, b"{}"


@contextmanager
def running():
    """A hub that answers at its ``url``."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, headers, content = hub.answer(self.command, self.path, body, token)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = handle_any

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(hub: Hub, monkeypatch, place) -> None:
    """Let the client of the hub ask the stand-in, with an empty cache in ``place`` and no stored token."""
    constants = "huggingface_hub.constants."
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(place / "cache"),
        "HF_TOKEN_PATH": str(place / "token"),
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants + name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
