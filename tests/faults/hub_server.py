"""A fake of the Hub: a local HTTP server that speaks its wire protocol to the real huggingface_hub client.

It holds repositories in memory, commits whole or not at all, records every request, and fails as it is told.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf" + "_" + "FakeHubTokenThatIsNoSecretAtAll"
# Where in a push a request stands.
STAGES = {
    "rights": r"POST /api/repos/create|GET /api/models/[^/]+/[^/]+/auth-check/write",
    "begin": r"POST /api/models/.*/preupload/.*",
    "middle": r"POST /.*\.git/info/lfs/objects/batch|PUT /lfs/.*",
    "end": r"POST /api/models/.*/commit/.*",
    "all": r".*",
}


@dataclass
class Fault:
    """What happens to requests ("METHOD PATH") that match: a status, or do is cut, lost or hang.

    cut: no answer; lost: carried out, and no answer; hang: no answer until the fault is lifted. It happens
    `times` times, after `skip` requests.
    """

    match: str
    status: int | None = None
    do: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    times: float = float("inf")
    skip: int = 0
    met: int = 0
    lifted: threading.Event = field(default_factory=threading.Event)


@dataclass
class Repo:
    """A repository: branches of commits, each a table of path to content."""

    private: bool
    branches: dict[str, list[str]] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def head(self, revision: str) -> str | None:
        if revision in self.commits:
            return revision
        return self.branches[revision][-1] if revision in self.branches else None


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    line: str
    token: str | None
    body: bytes
    at: float


class FakeHub:
    """The server; a context. `endpoint` is what HF_ENDPOINT has to be."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.stored: dict[str, bytes] = {}
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self.slept: list[float] = []  # between the client's own attempts, in seconds
        self.readers: set[str] = set()  # tokens that may read and not write
        self.on_commit: Callable[[str, str], None] = lambda repo_id, branch: None
        self.lock = threading.RLock()
        hub = self

        class Handler(_Handler):
            held = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.clear()
        self.server.shutdown()
        self.server.server_close()

    def fail(self, match: str, **how: Any) -> Fault:
        self.faults.append(Fault(STAGES.get(match, match), **how))
        return self.faults[-1]

    def fault_of(self, line: str) -> Fault | None:
        for each in self.faults:
            if each.met >= each.times or not re.fullmatch(each.match, line):
                continue
            if each.skip:
                each.skip -= 1
                continue
            each.met += 1
            return each
        return None

    def clear(self) -> None:
        for each in self.faults:
            each.lifted.set()
        self.faults = []

    def create(self, repo_id: str, *, private: bool = True) -> Repo:
        repo = self.repos[repo_id] = Repo(private, {"main": []})
        self.add(repo, "main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return repo

    def add(self, repo: Repo, branch: str, files: dict[str, bytes]) -> str:
        number = sum(map(len, repo.branches.values()))
        commit = hashlib.sha1(f"{branch} {number} {sorted(files)}".encode()).hexdigest()
        repo.commits[commit] = files
        repo.branches[branch].append(commit)
        return commit

    def files(self, repo_id: str, branch: str = "main") -> dict[str, bytes]:
        """What a branch holds, .gitattributes left out."""
        repo = self.repos[repo_id]
        held = repo.commits[repo.head(branch) or ""]
        return {name: content for name, content in held.items() if name != ".gitattributes"}

    def num_commits(self, repo_id: str, branch: str = "main") -> int:
        """Those that were pushed: the first one of a branch was there."""
        return len(self.repos[repo_id].branches.get(branch, [""])) - 1

    def lines(self, match: str) -> list[str]:
        """The requests that match, as METHOD PATH."""
        return [each.line for each in self.seen if re.fullmatch(STAGES.get(match, match), each.line)]

    def everything_sent(self) -> bytes:
        """Every byte that came in a body, base64 in commits decoded."""
        parts = []
        for each in self.seen:
            parts.append(each.body)
            for value in re.findall(rb'"content": "([A-Za-z0-9+/=]*)"', each.body):
                parts.append(base64.b64decode(value))
        return b"\n".join(parts)


class _Handler(BaseHTTPRequestHandler):
    held: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_HEAD = do_GET

    def _serve(self) -> None:
        hub, path = self.held, unquote(urlsplit(self.path).path)
        line = f"{self.command} {path}"
        body = self._body()
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        with hub.lock:
            hub.seen.append(Seen(line, token, body, time.monotonic()))
            fault = hub.fault_of(line)
        if fault and fault.do == "hang":
            fault.lifted.wait()
        if fault and fault.do in ("hang", "cut"):
            self._cut()
            return
        if fault and fault.status:
            self._answer(fault.status, {"error": f"scripted {fault.status}"}, fault.headers)
            return
        with hub.lock:
            status, answer, headers = self._answered(path, body, token)
        if fault and fault.do == "lost":
            self._cut()
        else:
            self._answer(status, answer, headers)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _answer(self, status: int, answer: Any, headers: dict[str, str]) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # --- what it answers

    def _answered(self, path: str, body: bytes, token: str | None) -> tuple[int, Any, dict[str, str]]:
        hub = self.held
        if self.command == "PUT" and path.startswith("/lfs/"):  # signed addresses need no login
            if hashlib.sha256(body).hexdigest() != path.removeprefix("/lfs/"):
                return 400, {"error": "another content than its hash"}, {}
            hub.stored[path.removeprefix("/lfs/")] = body
            return 200, {}, {}
        if path == "/api/agent-harnesses":  # asked by huggingface_hub 2, of its own accord
            return 200, {}, {}
        if token != TOKEN and token not in hub.readers:
            return 401, {"error": "Invalid credentials in Authorization header"}, {}
        writes = self.command == "POST" or path.endswith("/auth-check/write")
        if writes and token in hub.readers:
            return 403, {"error": "this token may only read"}, {}
        if path == "/api/whoami-v2":
            return 200, {"type": "user", "name": "owner"}, {}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return 200, self._batch(json.loads(body)), {}
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(*match.groups())
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(.*))?", path):
            return self._of_repo(match[1], match[2] or "", body)
        return 404, {"error": f"the fake has no {path}"}, {}

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        repo_id = f"{asked['organization']}/{asked['name']}"
        if repo_id in self.held.repos:
            return 409, {"error": "it is there already", "url": f"{self.held.endpoint}/{repo_id}"}, {}
        self.held.create(repo_id, private=asked.get("visibility", "public") == "private")
        return 200, {"url": f"{self.held.endpoint}/{repo_id}"}, {}

    def _batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        objects = []
        for each in asked["objects"]:
            upload = {"upload": {"href": f"{self.held.endpoint}/lfs/{each['oid']}", "header": {}}}
            known = each["oid"] in self.held.stored
            objects.append(
                {"oid": each["oid"], "size": each["size"]} | ({} if known else {"actions": upload})
            )
        return {"transfer": "basic", "objects": objects}

    def _of_repo(self, repo_id: str, rest: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        repo = self.held.repos.get(repo_id)
        if repo is None:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        if rest == "auth-check/write":
            return 200, {}, {}
        if match := re.fullmatch(r"branch/(.+)", rest):
            if match[1] in repo.branches:
                return 409, {"error": "it is there already"}, {}
            repo.branches[match[1]] = [repo.branches["main"][-1]]
            return 200, {}, {}
        match = re.fullmatch(r"(revision|tree|preupload|commit)/([^/]+)", rest)
        what, revision = (match[1], match[2]) if match else ("revision", "main")
        head = repo.head(revision)
        if head is None:
            return 404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"}
        if what == "revision":
            return 200, {"id": repo_id, "sha": head, "private": repo.private, "siblings": [], "tags": []}, {}
        if what == "tree":
            return 200, [_entry(name, content) for name, content in sorted(repo.commits[head].items())], {}
        if what == "preupload":
            return 200, {"files": [_mode(each, repo.commits[head]) for each in json.loads(body)["files"]]}, {}
        return self._commit(repo_id, repo, revision, head, body)

    def _commit(self, repo_id: str, repo: Repo, branch: str, head: str, body: bytes) -> tuple[int, Any, dict]:
        files = dict(repo.commits[head])
        for key, value in ((each["key"], each["value"]) for each in map(json.loads, body.splitlines())):
            if key == "header" and value.get("parentCommit") not in (None, head):
                return 412, {"error": "the branch moved on"}, {}
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.held.stored:
                    return 400, {"error": "a file was not uploaded"}, {}
                files[value["path"]] = self.held.stored[value["oid"]]
            elif key == "deletedFile" and files.pop(value["path"], None) is None:
                return 404, {"error": "there is no such file"}, {"X-Error-Code": "EntryNotFound"}
        commit = self.held.add(repo, branch, files)
        self.held.on_commit(repo_id, branch)
        url = f"{self.held.endpoint}/{repo_id}/commit/{commit}"
        return 200, {"success": True, "commitOid": commit, "commitUrl": url}, {}

    def _resolve(self, repo_id: str, revision: str, name: str) -> tuple[int, Any, dict[str, str]]:
        repo = self.held.repos.get(repo_id)
        head = repo.head(revision) if repo else None
        if repo is None or head is None or name not in repo.commits[head]:
            return 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}
        content = repo.commits[head][name]
        headers = {"X-Repo-Commit": head, "ETag": f'"{_oid(name, content)}"'}
        return 200, content, headers


def _is_lfs(name: str) -> bool:
    return name.endswith(".safetensors")


def _oid(name: str, content: bytes) -> str:
    if _is_lfs(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": _oid(name, content)}
    if _is_lfs(name):
        entry["lfs"] = {"oid": entry["oid"], "size": len(content), "pointerSize": 130}
        entry["oid"] = hashlib.sha1(content).hexdigest()
    return entry


def _mode(asked: dict[str, Any], there: dict[str, bytes]) -> dict[str, Any]:
    name = asked["path"]
    mode = {"path": name, "uploadMode": "lfs" if _is_lfs(name) else "regular", "shouldIgnore": False}
    return mode | ({"oid": _oid(name, there[name])} if name in there else {})


def taken_for_the_hub(
    endpoint: str, set_attribute: Callable[[Any, str, Any], Any], set_variable: Callable[[str, str], Any]
) -> None:
    """Let this process and its children take a server for the Hub, with a login that may write there."""
    from huggingface_hub import constants

    # huggingface_hub read these when it was imported.
    for name, value in {
        "ENDPOINT": endpoint, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    }.items():  # fmt: skip
        set_attribute(constants, name, value)
    for name, text in {
        "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }.items():  # fmt: skip
        set_variable(name, text)


def until(what: Callable[[], bool], deadline_s: float = 60.0) -> None:
    """Return once `what` holds; fail when it never does."""
    ends = time.monotonic() + deadline_s
    while not what():
        assert time.monotonic() < ends, "what was waited for never came"
        time.sleep(0.01)
