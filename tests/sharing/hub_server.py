"""A small Hugging Face Hub on the loopback: create, preupload, LFS, commit, as its client speaks it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN = "hf_" + "a1B2c3D4e5" * 3


class Hub(ThreadingHTTPServer):
    """Repositories in memory: id -> path -> bytes, and whether they are private; `refuse`: path ending -> status."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[tuple[str, str]] = []
        self.refuse: dict[str, int] = {}
        self.large: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _serve(self) -> None:
        path, _, _ = self.path.partition("?")
        body, hub = self._body(), self.server
        hub.requests.append((self.command, path))
        if "/lfs-store/" in path:
            oid = path.rpartition("/")[2]
            assert hashlib.sha256(body).hexdigest() == oid, "the bytes are those that were announced"
            hub.large[oid] = body
            return self._answer({})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "Invalid username or password."}, 401)
        refused = next((status for ending, status in hub.refuse.items() if path.endswith(ending)), None)
        if refused:
            return self._answer({"error": "not today"}, refused)
        return self._answer(*self._api(path, body, hub))

    def _api(self, path: str, body: bytes, hub: Hub) -> tuple[object, ...]:
        """Content, and a status unless it is 200."""
        if path == "/api/validate-yaml":
            head = yaml.safe_load(json.loads(body)["content"].split("---")[1])
            known = {"license", "library_name", "pipeline_tag", "tags"} <= set(head)
            return ({"errors": [] if known else [{"message": "metadata is missing"}], "warnings": []},)
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if repo in hub.repos:
                return {"error": "You already created this model repo", "url": f"{hub.address}/{repo}"}, 409
            hub.repos[repo] = {".gitattributes": b"*.safetensors filter=lfs\n"}
            hub.private[repo] = asked.get("private", asked.get("visibility") == "private")
            return ({"url": f"{hub.address}/{repo}", "name": repo},)
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for entry in objects:
                entry["actions"] = {"upload": {"href": f"{hub.address}/lfs-store/{entry['oid']}", "header": {}}}
            return ({"transfer": "basic", "objects": objects},)
        parts = path.strip("/").split("/")
        repo = "/".join(parts[2:4])
        if repo not in hub.repos:
            return {"error": "Repository not found"}, 404
        if "preupload" in parts:
            names = [entry["path"] for entry in json.loads(body)["files"]]
            modes = ["lfs" if name.endswith(".safetensors") else "regular" for name in names]
            pairs = zip(names, modes, strict=True)
            return ({"files": [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in pairs]},)
        if "commit" in parts:
            self._commit(repo, body)
            oid = hashlib.sha1(body).hexdigest()
            return ({"commitUrl": f"{hub.address}/{repo}/commit/{oid}", "commitOid": oid, "success": True},)
        files = hub.repos[repo]
        if "tree" in parts:
            return ([{"type": "file", "path": name, "size": len(files[name]), "oid": "0" * 40} for name in files],)
        siblings = [{"rfilename": name} for name in files]
        return ({"id": repo, "modelId": repo, "sha": "0" * 40, "siblings": siblings, "tags": [], "private": True},)

    def _commit(self, repo: str, body: bytes) -> None:
        files = self.server.repos[repo]
        for line in body.decode().splitlines():
            key, value = (json.loads(line)[name] for name in ("key", "value"))
            if key == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                assert value["algo"] == "sha256"
                files[value["path"]] = self.server.large[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                assert key == "header", line

    do_GET = do_POST = do_PUT = do_HEAD = _serve


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Start a hub, and stop it."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
