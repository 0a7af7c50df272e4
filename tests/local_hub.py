"""A small Hugging Face Hub on loopback: the endpoints that huggingface_hub uses, and faults on request.

Written after the calls of huggingface_hub 2.4 (plain HTTP transfers, xet switched off). It is no proof
of how the real Hub behaves.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_localtoken"
LARGE = 100_000  # bytes; files from here on travel as large files


@dataclass
class Fault:
    """Meets the next `times` requests whose "METHOD path" contains `where`.

    drop: the connection closes unanswered. lost: the request is done, its answer never arrives.
    cut: the answer stops in the middle. short: half the bytes, labelled as all of them. flip: one byte
    changed. An integer: that HTTP status, with `message` and `code` as the Hub words its refusals.
    """

    where: str
    kind: str | int
    times: int = 1
    message: str = "injected"
    code: str = ""


@dataclass
class Repo:
    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=list)  # each: all files of that commit
    ids: list[str] = field(default_factory=list)

    def add(self, files: dict[str, bytes]) -> str:
        text = json.dumps({name: git_hash(data) for name, data in sorted(files.items())})
        self.commits.append(files)
        self.ids.append(hashlib.sha1(f"{len(self.ids)}{text}".encode()).hexdigest())
        return self.ids[-1]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        revision = self.ids[-1] if revision == "main" else revision
        if revision not in self.ids:
            return None
        return revision, self.commits[self.ids.index(revision)]


class LocalHub(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, Repo] = {}
        self.storage: dict[str, bytes] = {}  # large files by SHA-256
        self.faults: list[Fault] = []
        self.log: list[str] = []  # "METHOD path" of every request, in order
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients hang up when we do

    def fault(self, line: str) -> Fault | None:
        with self.lock:
            self.log.append(line)
            for fault in self.faults:
                if fault.times and fault.where in line:
                    fault.times -= 1
                    return fault
        return None

    def count(self, where: str) -> int:
        return sum(where in line for line in self.log)

    def put(self, name: str, files: dict[str, bytes], *, private: bool = True) -> str:
        """A repository that somebody else made; returns its revision."""
        repo = self.repos.setdefault(name, Repo(private))
        for data in files.values():
            if len(data) >= LARGE:
                self.storage[hashlib.sha256(data).hexdigest()] = data
        return repo.add(files)


@contextmanager
def running() -> Iterator[LocalHub]:
    hub = LocalHub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_one(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.read_chunks() if self.headers.get("Transfer-Encoding") else b""
        self.url = unquote(urlsplit(self.path).path)
        line = f"{self.command} {self.url}"
        fault = self.server.fault(line)
        self.kind = fault.kind if fault else None
        if self.kind == "drop":
            self.rfile.read(min(length, 1000))
            return self.hang_up()
        self.body = self.body or self.rfile.read(length)
        if fault is not None and isinstance(self.kind, int):
            about = {"X-Error-Code": fault.code} if fault.code else {}
            return self.answer(self.kind, {"error": fault.message}, **about)
        for pattern, method in ROUTES:
            found = re.fullmatch(pattern, line)
            if found:
                return method(self, *found.groups())
        return self.answer(404, {"error": f"no such endpoint: {line}"})

    do_GET = do_POST = do_PUT = do_HEAD = handle_one

    def read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def answer(self, status: int, value: Any, **headers: str) -> None:
        self.send(
            status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers}
        )

    def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        if self.kind == "lost":
            return self.hang_up()
        if self.kind == "short":
            data = data[: len(data) // 2]
        if self.kind == "flip":
            data = data[:-1] + bytes([data[-1] ^ 1])
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        if self.kind == "cut":
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            return self.hang_up()
        self.wfile.write(data)
        return None

    def repo(self, name: str) -> Repo | None:
        found = self.server.repos.get(name)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if found is not None and (known or not found.private):
            return found
        missing = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
        self.answer(404 if known else 401, {"error": "Repository not found"}, **missing)
        return None

    def revision(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repo = self.repo(name)
        if repo is None:
            return None
        found = repo.at(revision)
        if found is None:
            self.answer(
                404, {"error": "Revision not found"}, **{"X-Error-Code": "RevisionNotFound"}
            )
        return found

    def create(self) -> None:
        asked = json.loads(self.body)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        name = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.server.url}/{name}"}
        if name in self.server.repos:
            return self.answer(409, {"error": "You already created this model repo", **url})
        repo = self.server.repos[name] = Repo(asked.get("visibility") == "private")
        repo.add({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return self.answer(200, {**url, "name": name})

    def info(self, name: str, revision: str = "main") -> None:
        found = self.revision(name, revision)
        if found:
            private = self.server.repos[name].private
            self.answer(200, {"id": name, "sha": found[0], "private": private, "siblings": []})

    def tree(self, name: str, revision: str) -> None:
        found = self.revision(name, revision)
        if found is None:
            return
        entries = []
        for path, data in found[1].items():
            entry = {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
            if len(data) >= LARGE:
                oid = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 134}
            entries.append(entry)
        folders = {path.rpartition("/")[0] for path in found[1]} - {""}
        entries += [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders]
        self.answer(200, entries)

    def validate(self) -> None:
        text = json.loads(self.body)["content"]
        errors = [] if text.startswith("---\n") else [{"message": "no front matter"}]
        self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        found = self.revision(name, revision)
        if found is None:
            return
        answer = []
        for file in json.loads(self.body)["files"]:
            there = found[1].get(file["path"])
            large = file["size"] >= LARGE
            mode = "lfs" if large else "regular"
            entry = {"path": file["path"], "shouldIgnore": False, "uploadMode": mode}
            if there is not None:
                hashed = hashlib.sha256(there).hexdigest() if large else git_hash(there)
                entry["oid"] = hashed
            answer.append(entry)
        self.answer(200, {"files": answer})

    def batch(self, name: str) -> None:
        objects = []
        for item in json.loads(self.body)["objects"]:
            if item["oid"] not in self.server.storage:
                href = f"{self.server.url}/storage/{item['oid']}"
                item = {**item, "actions": {"upload": {"href": href, "header": {}}}}
            objects.append(item)
        self.answer(200, {"objects": objects, "transfer": "basic"})

    def store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.answer(400, {"error": "content does not match"})
        self.server.storage[oid] = self.body
        return self.answer(200, {})

    def commit(self, name: str, revision: str) -> None:
        found = self.revision(name, revision)
        if found is None:
            return None
        head, files = found[0], dict(found[1])
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header" and value.get("parentCommit", head) != head:
                return self.answer(412, {"error": "A commit has happened since."})
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if item["key"] == "lfsFile":
                files[value["path"]] = self.server.storage[value["oid"]]
            if item["key"] == "deletedFile":
                del files[value["path"]]
        oid = self.server.repos[name].add(files)
        url = f"{self.server.url}/{name}/commit/{oid}"
        return self.answer(200, {"commitUrl": url, "commitOid": oid, "success": True})

    def resolve(self, name: str, revision: str, path: str) -> None:
        found = self.revision(name, revision)
        if found is None:
            return None
        data = found[1].get(path)
        about = {"X-Repo-Commit": found[0]}
        if data is None:
            return self.answer(
                404, {"error": "no file"}, **{"X-Error-Code": "EntryNotFound"}, **about
            )
        if self.kind is None or self.command == "HEAD":
            about["ETag"] = f'"{git_hash(data)}"'
            about["X-Linked-Size"] = str(len(data))
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if begin:
            start = int(begin.group(1))
            about["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.send(206, data[start:], about)
        return self.send(200, data, about)


ID = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"GET /api/models/{ID}", Handler.info),
    (rf"GET /api/models/{ID}/revision/([^/]+)", Handler.info),
    (rf"GET /api/models/{ID}/tree/([^/]+)", Handler.tree),
    (rf"POST /api/models/{ID}/preupload/([^/]+)", Handler.preupload),
    (rf"POST /api/models/{ID}/commit/([^/]+)", Handler.commit),
    (rf"POST /{ID}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /storage/(\w+)", Handler.store),
    (rf"(?:GET|HEAD) /{ID}/resolve/([^/]+)/(.+)", Handler.resolve),
]
