"""The REPL inside the sandbox: runs cells, asks the host on behalf of their code, and reports.

It stands alone (Python 3.9, standard library) and is only ever run in a sandbox. What it sends may be forged
by the code that it runs, so the host believes nothing of it: budgets, depth and times are kept outside.
"""

from __future__ import annotations

import ast
import base64
import builtins
import contextlib
import io
import json
import os
import pickle
import re
import socket
import sys
import threading
import traceback
import types
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.getcwd()
MAX_MESSAGE_CHARS = 2000  # of an exception
MAX_NAMES = 100  # that are told of
BYTES_PER_TOKEN = 3.5  # or so
SKIPPED_FOLDERS = (".git",)


class SubcallError(Exception):
    """A question to a model had no answer. Kind: budget, deadline, depth, too_long or engine."""

    def __init__(self, kind: str, message: str, partial: str = "") -> None:
        super().__init__(kind, message, partial)
        self.kind, self.message, self.partial = kind, message, partial

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


class Result:
    """What one of several questions came to. It is no text, so that a failure is never read as an answer."""

    def __init__(self, text: str | None, error: SubcallError | None, is_cut: bool = False) -> None:
        self._text = text
        self.error = error
        self.is_cut = is_cut  # the model had not said all

    @property
    def ok(self) -> bool:
        """Whether there is an answer."""
        return self.error is None

    @property
    def value(self) -> str:
        """The answer. Raises SubcallError where there is none."""
        if self.error is not None:
            raise self.error
        return str(self._text)

    def __repr__(self) -> str:
        if self.error:
            return f"<Result not ok: {self.error}>"
        return f"<Result ok: {len(self.value)} characters{', cut off' if self.is_cut else ''}>"

    def __str__(self) -> str:
        raise TypeError("a Result is no text: look at .ok, then take .value or .error")


class Finished(BaseException):
    """The cell has given the answer."""


class Output(io.TextIOBase):
    """Keeps the head and the tail of what a cell prints, and counts all of it."""

    def __init__(self, max_chars: int) -> None:
        self._room = max_chars // 2  # of the head
        self._tail_chars = max_chars - self._room
        self._head: list[str] = []
        self._tail = ""
        self._num_chars = 0

    def writable(self) -> bool:
        """Say that it can be printed to."""
        return True

    def write(self, text: str) -> int:
        """Take a piece."""
        self._num_chars += len(text)
        self._head.append(text[: self._room])
        self._tail = (self._tail + text[self._room :][-self._tail_chars :])[-self._tail_chars :]
        self._room = max(0, self._room - len(text))
        return len(text)

    def told(self) -> dict[str, Any]:
        """Return what the host is told."""
        return {"head": "".join(self._head), "tail": self._tail, "num_chars": self._num_chars}


class Link:
    """The connection to the host. Lines of JSON; one exchange at a time, whichever thread asks."""

    def __init__(self, token: str, limits: dict[str, int]) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(os.path.join(HERE, "socket"))
        self._socket.sendall(token.encode() + b"\n")
        self._lines = self._socket.makefile("rb")
        self._limits = limits
        self._pid = os.getpid()
        self.lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message. Raises SubcallError where it is too long."""
        line = json.dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        most = self._limits["line_bytes"]
        if len(line) > most:
            raise SubcallError("too_long", f"{len(line)} bytes at once; the most is {most}")
        self._socket.sendall(line)

    def receive(self) -> dict[str, Any]:
        """Wait for the host's next message. The process ends with the connection."""
        line = self._lines.readline()
        if not line:
            os._exit(0)
        message: dict[str, Any] = json.loads(line)
        return message

    def ask(self, function: str, questions: list[Any]) -> list[Result]:
        """Have the host answer the questions, in order."""
        if os.getpid() != self._pid:
            raise SubcallError("engine", "only the process of the REPL can ask, none that it has started")
        most = self._limits["num_questions"]
        if len(questions) > most:
            raise SubcallError("too_long", f"{len(questions)} questions at once; the most is {most}")
        with self.lock:
            self.send({"type": "call", "function": function, "questions": questions})
            results = self.receive()["results"]
        return [
            Result(one["text"], None, one["is_cut"])
            if one["ok"]
            else Result(None, SubcallError(one["kind"], one["message"], one["partial"]))
            for one in results
        ]


class Repository:
    """The files of the repository."""

    def paths(self, pattern: str = "") -> list[str]:
        """Return the relative paths that the regular expression is found in."""
        found = []
        for folder, folders, files in os.walk(REPOSITORY):
            folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS)
            found += [os.path.relpath(os.path.join(folder, name), REPOSITORY) for name in files]
        return sorted(path for path in found if re.search(pattern, path))

    def read(self, path: str, start: int = 1, end: int | None = None) -> str:
        """Return the file's lines from `start` to `end`, counted from 1, both included."""
        with open(os.path.join(REPOSITORY, path), encoding="utf-8", errors="replace", newline="") as file:
            text = file.read()
        if start <= 1 and end is None:
            return text
        return "".join(_lines(text)[max(0, start - 1) : end])

    def grep(self, pattern: str, path: str = "") -> list[tuple[str, int, str]]:
        """Return (path, line number, line) of each line that holds the regular expression."""
        wanted = re.compile(pattern)
        found = []
        for name in self.paths(path):
            with contextlib.suppress(OSError):
                lines = [line.rstrip("\r\n") for line in _lines(self.read(name))]
                found += [(name, i + 1, line) for i, line in enumerate(lines) if wanted.search(line)]
        return found

    def tree(self, depth: int = 2) -> str:
        """Return the folders down to a depth, a line each, with how much lies below."""
        sizes: dict[str, list[int]] = {}
        for path in self.paths():
            parts = path.split(os.sep)
            num_bytes = os.lstat(os.path.join(REPOSITORY, path)).st_size
            for i in range(min(depth, len(parts) - 1) + 1):
                folder = "/".join(parts[:i]) + "/" if i else "./"
                sizes.setdefault(folder, []).append(num_bytes)
        return "\n".join(
            f"{folder} {len(size)} files, about {sum(size) / BYTES_PER_TOKEN:,.0f} tokens"
            for folder, size in sorted(sizes.items())
        )

    def __repr__(self) -> str:
        return f"<repository of {len(self.paths())} files: paths, read, grep, tree>"


class Names(dict[str, Any]):
    """The cells' variables. Beneath lie the REPL's own names: what covers one is dropped before each cell."""

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(__name__="__main__", __builtins__=_Last(vars(builtins), self))
        self.beneath = dict(data)
        self.data = {name for name, value in data.items() if name != "question" and value not in ("", [])}
        self.has_read = False

    def __missing__(self, name: str) -> Any:
        self.has_read |= name in self.data
        return self.beneath[name]

    def uncover(self) -> None:
        """Make the REPL's own names mean what they should; the answer so far is kept."""
        for name in self.beneath:
            self.pop(name, None)
        if not isinstance(self.get("answer"), dict):
            self["answer"] = {"content": self.get("answer", ""), "ready": False}

    def own(self) -> dict[str, Any]:
        """Return the variables that cells have made."""
        return {name: value for name, value in self.items() if not name.startswith("__")}


class _Last(dict[str, Any]):
    """The builtins, and beneath them the REPL's own names: a class body asks nothing else for a name."""

    def __init__(self, data: dict[str, Any], names: Names) -> None:
        super().__init__(data)
        self._names = names

    def __missing__(self, name: str) -> Any:
        return self._names.__missing__(name)


class Bounded(io.RawIOBase):
    """Takes so many bytes and no more, so that a large value is given up early."""

    def __init__(self, max_bytes: int) -> None:
        self.data = bytearray()
        self._max_bytes = max_bytes

    def write(self, piece: Any) -> int:
        """Take a piece. Raises OverflowError when it is too much in all."""
        if len(self.data) + len(piece) > self._max_bytes:
            raise OverflowError("too large for a snapshot")
        self.data += piece
        return len(piece)


class Repl:
    """The persistent state, and what cells can call."""

    def __init__(self, link: Link, data: dict[str, Any], limits: dict[str, int]) -> None:
        self._link, self._limits = link, limits
        self._final: str | None = None
        self._definitions: dict[str, tuple[Any, str]] = {}  # what cells defined, with its source, in order
        self.names = Names(data)
        functions = (
            *(self.llm_query, self.llm_query_batched, self.rlm_query, self.rlm_query_batched),
            *(self.SHOW_VARS, self.FINAL, self.FINAL_VAR),
        )
        self.names.beneath.update({function.__name__: function for function in functions})
        self.names.beneath["SubcallError"] = SubcallError
        self.names.uncover()

    def llm_query(self, prompt: str) -> str:
        """Return a model's answer to one prompt. Raises SubcallError."""
        return self.llm_query_batched([prompt])[0].value

    def llm_query_batched(self, prompts: list[str]) -> list[Result]:
        """Ask several prompts at once; the results keep their order."""
        return self._link.ask("llm_query", [_text(prompt) for prompt in prompts])

    def rlm_query(self, question: str, text: Any) -> str:
        """Return what a REPL of its own finds out about a text, or list of texts. Raises SubcallError."""
        return self.rlm_query_batched([(question, text)])[0].value

    def rlm_query_batched(self, questions: list[Any]) -> list[Result]:
        """Ask several (question, text) at once; the results keep their order."""
        asked = []
        for question, text in questions:
            whole = [_text(part) for part in text] if isinstance(text, (list, tuple)) else _text(text)
            asked.append([_text(question), whole])
        return self._link.ask("rlm_query", asked)

    def SHOW_VARS(self) -> None:  # noqa: N802 - the name that models know
        """Print the variables with their types and sizes."""
        for name, kind in self._told_names():
            print(f"{name}: {kind}")

    def FINAL(self, text: Any) -> None:  # noqa: N802
        """Give the answer; the cell ends here."""
        self._final = self._checked(text)
        raise Finished

    def FINAL_VAR(self, name: Any) -> None:  # noqa: N802
        """Give the value of a variable as the answer; the cell ends here."""
        if isinstance(name, str) and name not in self.names:
            raise NameError(f"there is no variable {name!r}")
        self.FINAL(self.names[name] if isinstance(name, str) else name)

    def run(self, cell: int, source: str) -> dict[str, Any]:
        """Run a cell and return what the host is told of it."""
        self._final = None
        self.names.uncover()
        output = Output(self._limits["output_chars"])
        error = None
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                self._execute(source, f"<cell {cell}>")
            except Finished:
                pass
            except BaseException as exc:
                error = _described(exc, f"<cell {cell}>")
            try:
                content = self._answered()
            except Exception as exc:
                content, error = "", error or _described(exc, "")
        return {
            "type": "done",
            "cell": cell,
            "output": output.told(),
            "error": error,
            "final": self._final if error is None else None,
            "answer": content,
            "has_read": self.names.has_read,
            "names": self._told_names(),
            **self._snapshot(),
        }

    def restore(self, message: dict[str, Any]) -> dict[str, Any]:
        """Take up the variables of an earlier kernel; what cannot be had again is named."""
        lost = []
        self.names.has_read = message["has_read"]
        for name, module in message["modules"].items():
            try:
                __import__(module)
                self.names[name] = sys.modules[module]
            except Exception:
                lost.append(name)
        for name, pickled in message["variables"].items():
            try:
                self.names[name] = pickle.loads(base64.b64decode(pickled))  # noqa: S301 - made in a sandbox
            except Exception:
                lost.append(name)
        for name, source in message["definitions"].items():  # last: a default may be a variable
            try:
                self._execute(source, "<restored>")
            except Exception:
                lost.append(name)
        return {"type": "restored", "lost": lost}

    def _execute(self, source: str, filename: str) -> None:
        parsed = ast.parse(source, filename)
        last = parsed.body.pop() if parsed.body and isinstance(parsed.body[-1], ast.Expr) else None
        before = dict(self.names)
        try:
            exec(compile(parsed, filename, "exec"), self.names)  # noqa: S102 - this is what the sandbox is for
        finally:
            self._keep_definitions(parsed, _lines(source), before)
        if last is not None:  # "single" prints what the expression is worth
            exec(compile(ast.Interactive([last]), filename, "single"), self.names)  # noqa: S102

    def _keep_definitions(self, cell: ast.Module, lines: list[str], before: dict[str, Any]) -> None:
        """Keep the source of what a cell has defined: a function of a cell cannot be pickled."""
        for node in cell.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                made = self.names.get(node.name)
                if made is not None and made is not before.get(node.name):
                    self._definitions.pop(node.name, None)
                    first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                    self._definitions[node.name] = made, "".join(lines[first - 1 : node.end_lineno])

    def _answered(self) -> str:
        """Return what the `answer` variable holds; it is final where it says that it is ready."""
        answer = self.names.get("answer")
        if not isinstance(answer, dict):
            answer = {"content": "" if answer is None else answer}
        content = answer.get("content", "")
        if answer.get("ready") and self._final is None:
            self._final = self._checked(content)
        return self._bounded(str(content))

    def _checked(self, value: Any) -> str:
        text = str(value)
        if not self.names.has_read:
            raise RuntimeError(f"nothing was read yet: look at {' or '.join(sorted(self.names.data))} first")
        if value is None or not text.strip():
            raise ValueError("the answer is empty")
        return self._bounded(text)

    def _bounded(self, text: str) -> str:
        most = self._limits["answer_chars"]
        if len(text) > most:
            raise ValueError(f"the answer has {len(text)} characters; the most is {most}")
        return text

    def _told_names(self) -> list[list[str]]:
        """Return names with what they are, the newest last."""
        return [[name[:100], _kind(value)] for name, value in list(self.names.own().items())[-MAX_NAMES:]]

    def _snapshot(self) -> dict[str, dict[str, str]]:
        """Return what another kernel can take up: modules, sources of definitions, pickled variables."""
        own = self.names.own()
        modules = {name: one.__name__ for name, one in own.items() if isinstance(one, types.ModuleType)}
        definitions = {
            name: source for name, (made, source) in self._definitions.items() if own.get(name) is made
        }
        pickled: dict[str, bytes] = {}
        for name in own.keys() - modules.keys() - definitions.keys():
            with contextlib.suppress(Exception):
                target = Bounded(self._limits["snapshot_bytes"])
                pickle.Pickler(target, protocol=4).dump(own[name])
                pickled[name] = bytes(target.data)
        variables, room = {}, self._limits["snapshot_bytes"]
        for name in sorted(pickled, key=lambda one: len(pickled[one])):  # as many as fit
            room -= len(pickled[name])
            if room >= 0:
                variables[name] = base64.b64encode(pickled[name]).decode()
        return {"modules": modules, "definitions": definitions, "variables": variables}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is wanted, not {type(value).__name__}")
    return value


def _lines(text: str) -> list[str]:
    """Return the lines with their ends, as compilers count them: a form feed ends none."""
    return list(io.StringIO(text, newline=""))


def _kind(value: Any) -> str:
    try:
        return f"{type(value).__name__} of {len(value)}"[:100]
    except Exception:
        return type(value).__name__[:100]


def _described(error: BaseException, filename: str) -> dict[str, Any]:
    """Return type, message and the cell's own line of an exception."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename
    ]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    try:
        message = str(error)[:MAX_MESSAGE_CHARS]
    except Exception:
        message = "(its message cannot be had)"
    return {"type": type(error).__name__[:200], "message": message, "line": line}


def main() -> None:
    """Serve the host until the connection ends."""
    with open(os.path.join(HERE, "session.json"), encoding="utf-8") as file:
        session = json.load(file)
    with open(os.path.join(HERE, "data.json"), encoding="utf-8", errors="surrogatepass") as file:
        data = json.load(file)
    if session["has_repository"]:
        data["repo"] = Repository()
    link = Link(session["token"], session["limits"])
    repl = Repl(link, data, session["limits"])
    reply: dict[str, Any] = {"type": "ready"}
    while True:
        with link.lock:  # a thread that a cell left behind waits for the next cell
            link.send(reply)
            message = link.receive()
        reply = (
            repl.restore(message)
            if message["type"] == "restore"
            else repl.run(message["cell"], message["source"])
        )


if __name__ == "__main__":
    main()
