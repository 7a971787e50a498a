"""A stand-in for the Hugging Face hub: it takes and gives the files of models."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_of_a_test"


class HubServer:
    """Serves models from memory inside ``with``. Uploads need ``TOKEN``.

    Attributes:
        files: contents by model and file name.
        private: models by name, and whether they were made private.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    return self.answer(401, {"error": "Invalid username or password."})
                self.answer(200, hub.post(self.path, body))

            def do_GET(self) -> None:
                found = hub.get(self.path)
                if found is None:
                    return self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
                self.answer(200, found)

            do_HEAD = do_GET

            def answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                about = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": "a" * 40}
                about |= {"Content-Length": str(len(data)), "Content-Type": "application/json"} | (headers or {})
                for name, value in about.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def post(self, path: str, body: bytes) -> object:
        """Make a repository, say how files are to be sent, or take them."""
        path = path.partition("?")[0]
        if path == "/api/repos/create":
            made = json.loads(body)
            name = "/".join(filter(None, (made.get("organization"), made["name"])))
            self.files.setdefault(name, {})
            self.private[name] = made.get("visibility") == "private" or bool(made.get("private"))
            return {"url": f"{self.url}/{name}", "id": "1", "name": name}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        name = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return {"files": [file | {"shouldIgnore": False, "oid": None} for file in files]}
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return {"commitUrl": f"{self.url}/{name}/commit/1", "commitOid": "a" * 40, "success": True}

    def get(self, path: str) -> object | None:
        """Return what is at an address, or ``None``."""
        path = path.partition("?")[0]
        if path.startswith("/api/models/"):
            name = "/".join(path.split("/")[3:5])
            if "/tree/" in path and name in self.files:
                files = self.files[name].items()
                return [{"type": "file", "path": file, "size": len(data), "oid": "b" * 40} for file, data in files]
            siblings = [{"rfilename": file} for file in self.files.get(name, ())]
            return {"id": name, "sha": "a" * 40, "siblings": siblings} if name in self.files else None
        name, _, file = path[1:].partition("/resolve/")
        return self.files.get(name, {}).get(file.partition("/")[2])
