"""A stand-in for a wandb server: it hands the runs of a sweep to an agent, one at a time, and takes what is synced."""

from __future__ import annotations

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import yaml

KEY = "0123456789abcdef" * 2 + "01234567"
PROJECT = {"id": "p", "name": "mcn", "entity": {"id": "e", "name": "someone"}}


def values_of(parameter: dict[str, Any]) -> list[Any]:
    """Return every value of a parameter of a sweep, of a range both ends."""
    if "values" in parameter:
        return parameter["values"]
    return [parameter["value"]] if "value" in parameter else [parameter["min"], parameter["max"]]


class WandbServer:
    """Answers what ``wandb sweep``, ``wandb agent`` and ``wandb sync`` cannot do without; it searches nothing.

    The first run has the first values of the sweep's parameters, the second the last ones, and so on in turn.

    Args:
        runs: what else is given to each run, by its id, in the order in which they are handed out.
    """

    def __init__(self, runs: dict[str, dict[str, Any]] | None = None) -> None:
        self.waiting = list((runs or {}).items())
        self.sweep: str | None = None  # the sweep file, as YAML or JSON
        self.started: list[str] = []
        self.seen: list[list[str]] = []  # the runs that are alive, heartbeat by heartbeat
        self.history: dict[str, dict[int, dict[str, Any]]] = {}  # of each run that was synced, line by line
        self.summary: dict[str, dict[str, Any]] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Content-Encoding") == "gzip":
                    sent = gzip.decompress(sent)
                asked = json.loads(sent or "{}")
                if self.path.endswith("/file_stream"):
                    found = server.take(self.path.split("/")[-2], asked.get("files") or {})
                else:
                    name = re.search(r"(?:query|mutation)\s+(\w+)", asked.get("query", ""))
                    answer = server.answer(name.group(1) if name else "", asked.get("variables") or {})
                    found = {"errors": [{"message": "not known here"}]} if answer is None else {"data": answer}
                body = json.dumps(found).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, operation: str, words: dict[str, Any]) -> dict[str, Any] | None:
        """Return the answer to an operation, or ``None`` for one that is not known here."""
        if operation in ("Viewer", "GetViewer", "GetDefaultEntity"):
            return {"viewer": {"id": "u", "entity": "someone", "username": "someone", "flags": "{}"}}
        if operation == "UpsertSweep":
            self.sweep = words["config"]
            return {"upsertSweep": {"sweep": {"name": "sweep1", "project": PROJECT}, "configValidationWarnings": []}}
        if operation == "SweepWithRuns":
            sweep = {"id": "s", "name": "sweep1", "state": "RUNNING", "config": self.sweep, "runs": {"edges": []}}
            return {"project": {"sweep": sweep}}
        if operation == "CreateAgent":
            return {"createAgent": {"agent": {"id": "agent1"}}}
        if operation == "Heartbeat":
            alive = [run for run, lives in json.loads(words.get("runState") or "{}").items() if lives]
            self.seen.append(alive)
            return {"agentHeartbeat": {"agent": {"id": "agent1"}, "commands": json.dumps(self._commands(alive))}}
        if operation == "UpsertBucket":
            run = words["name"]
            new, lines = run not in self.history, self.history.setdefault(run, {})
            bucket = {"id": run, "name": run, "project": PROJECT, "historyLineCount": len(lines)}
            return {"upsertBucket": {"bucket": bucket, "inserted": new}}
        return None

    def take(self, run: str, files: dict[str, Any]) -> dict[str, Any]:
        """Put lines of a run's files where they belong; return the answer."""
        if lines := files.get("wandb-history.jsonl"):
            self.history[run] |= enumerate(map(json.loads, lines["content"]), lines["offset"])
        if lines := files.get("wandb-summary.json"):
            self.summary[run] = json.loads(lines["content"][-1])
        return {"exitcode": None, "limits": {}}

    def _commands(self, alive: list[str]) -> list[dict[str, Any]]:
        if alive:
            return []
        if not self.waiting:
            return [{"type": "exit", "id": "end", "exitcode": 0}]
        run, more = self.waiting.pop(0)
        end = -(len(self.started) % 2)
        chosen = {name: values_of(one)[end] for name, one in yaml.safe_load(self.sweep or "")["parameters"].items()}
        self.started.append(run)
        values = {name: {"value": value} for name, value in (chosen | more).items()}
        return [{"type": "run", "id": run, "run_id": run, "program": "mcn_lightning", "args": values}]
