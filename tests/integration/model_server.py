"""A tiny OpenAI-compatible server that recites, and can be told to keep everybody waiting."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ModelServer(ThreadingHTTPServer):
    """Answers every draft with `answer`, once `may_answer` is set."""

    daemon_threads = True

    def __init__(self, answer: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.was_asked = threading.Event()  # a draft was requested
        self.num_drafts = 0

    @property
    def url(self) -> str:
        """What --endpoint takes."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextmanager
def serving(answer: str) -> Iterator[ModelServer]:
    """Yield a server that answers until the block ends."""
    server = ModelServer(answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.may_answer.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: ModelServer

    def do_GET(self) -> None:
        self._send({"data": [{"id": "recital", "object": "model"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.was_asked.set()
        self.server.may_answer.wait()
        self.server.num_drafts += 1
        message = {"role": "assistant", "content": self.server.answer}
        usage = {"prompt_tokens": 100, "completion_tokens": 20}
        self._send({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})

    def _send(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):  # the client was interrupted, as some tests want
            pass

    def log_message(self, *_: object) -> None:
        """Keep quiet."""
