"""Whatever a kernel says or does, the host goes on or tells a typed error."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.context.reading import Ending
from pipeline.context.rlm.link import Inputs, Link, kernel
from pipeline.context.rlm.messages import Call, Done, KernelError, Reply
from pipeline.context.rlm.session import Session
from pipeline.core import Outcome, SandboxLimits, SandboxRequest, SandboxResult
from pipeline.exceptions import SandboxError
from pipeline.protocols import Sandbox
from tests.integration.rlm_tools import Model, cell, read
from workers.sandbox.bubblewrap_sandbox import BubblewrapSandbox

pytestmark = pytest.mark.integration

_READY = b'{"type": "ready"}\n'
_DONE = {
    "type": "done",
    "cell": 1,
    "output": {"head": "", "tail": "", "num_chars": 0},
    "error": None,
    "final": None,
    "answer": "",
    "has_read": True,
    "names": [],
    "variables": {},
    "modules": {},
    "definitions": {},
}


def _line(**changed: object) -> bytes:
    return json.dumps(_DONE | changed).encode() + b"\n"


@dataclass
class Forger:
    """A sandbox in which something else than our kernel speaks to the host."""

    said: Callable[[], bytes]
    first: bytes = _READY
    name: str = "forger"

    async def run(self, request: SandboxRequest) -> SandboxResult:
        folder = Path(request.mounts[0].source)
        token = json.loads((folder / "session.json").read_bytes())["token"]
        reader, writer = await asyncio.open_unix_connection(folder / "socket")
        writer.write(token.encode() + b"\n" + self.first)
        await reader.readline()
        writer.write(self.said())
        await reader.read()
        return SandboxResult(outcome=Outcome.EXITED, exit_code=0)

    async def close(self) -> None:
        """Do nothing."""


@dataclass
class Watched:
    """Bubblewrap, and the folder that its last run was shown."""

    folder: Path | None = None
    name: str = "watched"

    async def run(self, request: SandboxRequest) -> SandboxResult:
        self.folder = Path(request.mounts[0].source)
        return await BubblewrapSandbox().run(request)

    async def close(self) -> None:
        """Do nothing."""


@dataclass
class Intruded:
    """Bubblewrap, but before the kernel others come to the socket."""

    answers: list[bytes] = field(default_factory=list)  # that they got
    name: str = "intruded"

    async def run(self, request: SandboxRequest) -> SandboxResult:
        path = Path(request.mounts[0].source) / "socket"
        _, silent = await asyncio.open_unix_connection(path)
        for greeting in (b"", b"\n", b"x" * 64 + b"\n", b"\xff" * 100_000):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(greeting + _READY)
            with contextlib.suppress(ConnectionError):  # closed before it had said all
                writer.write_eof()
                self.answers.append(await reader.read())
            writer.close()
        try:
            return await BubblewrapSandbox().run(request)
        finally:
            silent.close()

    async def close(self) -> None:
        """Do nothing."""


def _start(sandbox: Sandbox) -> Callable[[], AbstractAsyncContextManager[Link]]:
    return lambda: kernel(sandbox, Inputs(question="q", context="abc"), SandboxLimits(), 1000)


async def _serve(call: Call) -> list[Reply]:
    return [Reply(ok=True, text=f"told {question}") for question in call.questions]


_NONSENSE = {
    "no JSON": lambda: b"hello\n",
    "no text": lambda: b"\xff\xfe\x00\n",
    "no object": lambda: b"[1, 2]\n",
    "an empty line": lambda: b"\n",
    "deep JSON": lambda: b"[" * 1_000_000 + b"\n",
    "a giant line": lambda: b"x" * (65 << 20),
    "an unknown message": lambda: b'{"type": "shutdown"}\n',
    "an unknown function": lambda: b'{"type": "call", "function": "eval", "questions": ["1"]}\n',
    "questions that are none": lambda: (
        b'{"type": "call", "function": "llm_query", "questions": [{"a": 1}]}\n'
    ),
    "pairs that are none": lambda: (
        b'{"type": "call", "function": "rlm_query", "questions": [[["a"], "b"]]}\n'
    ),
    "questions without end": lambda: (
        b'{"type": "call", "function": "llm_query", "questions": [""' + b', ""' * 100_000 + b"]}\n"
    ),
    "a negative length": lambda: _line(output={"head": "", "tail": "", "num_chars": -1}),
    "an endless number": lambda: _line(output={"head": "", "tail": "", "num_chars": 10**400}),
    "not a number": lambda: _line().replace(b'"cell": 1', b'"cell": NaN'),
    "half a pair": lambda: _line(answer="\ud800"),
    "a forged end of another cell": lambda: _line(cell=7),
    "one thing too many": lambda: _line(extra=1),
    "ready again": lambda: _READY,
}


@pytest.mark.parametrize("said", _NONSENSE.values(), ids=_NONSENSE.keys())
async def test_nonsense_from_a_kernel_ends_the_cell_and_not_the_host(said: Callable[[], bytes]) -> None:
    session = Session(_start(Forger(said)), 60.0)
    try:
        end = await session.run("1", _serve)
    finally:
        await session.close()
    assert end.done is None
    assert end.failure


async def test_a_reading_whose_kernels_only_speak_nonsense_ends_without_an_answer(tmp_path: Path) -> None:
    answer = await read(Model([cell("context")]), "text", tmp_path, sandbox=Forger(lambda: b"nonsense\n"))
    assert (answer.text, answer.ending) == ("", Ending.NOTHING_READ)


async def test_a_kernel_that_is_not_ready_has_not_started() -> None:
    with pytest.raises(SandboxError, match="did not start"):
        async with kernel(Forger(lambda: b"", first=_line()), Inputs(question="q"), SandboxLimits(), 1000):
            pass


async def test_a_cell_that_only_asks_in_vain_comes_to_an_end() -> None:
    async def refuse(call: Call) -> list[Reply]:
        return [Reply.failed("budget", "nothing is left") for _ in call.questions]

    code = "while True:\n    try: llm_query('')\n    except SubcallError: pass"
    session = Session(_start(BubblewrapSandbox()), 3.0)
    try:
        end = await session.run(code, refuse)
    finally:
        await session.close()
    assert end.failure == "the cell was stopped after 3 seconds"


async def test_more_than_one_call_may_carry_is_refused_where_it_is_asked() -> None:
    code = (
        "for ask in (lambda: llm_query_batched(['x'] * 20_000), lambda: llm_query('x' * 40_000_000)):\n"
        "    try: ask()\n"
        "    except SubcallError as e: print(e.kind)\n"
        "llm_query('y')"
    )
    session = Session(_start(BubblewrapSandbox()), 60.0)
    try:
        end = await session.run(code, _serve)
    finally:
        await session.close()
    assert end.done is not None
    assert end.done.output.head == "too_long\ntoo_long\n'told y'\n"


async def test_a_snapshot_is_never_unpickled_on_the_host(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    pickled = f"cos\nsystem\n(S'touch {mark}'\ntR."
    said = _line(variables={"x": base64.b64encode(pickled.encode()).decode()}, names=[["x", "str"]])
    session = Session(_start(Forger(lambda: said + b"nonsense\n")), 60.0)
    try:
        assert (await session.run("1", _serve)).done is not None
        assert (await session.run("2", _serve)).lost == (
            "x",
        )  # two kernels were given it and did not take it
    finally:
        await session.close()
    assert not mark.exists()


async def test_a_cell_that_forges_the_end_of_later_cells_ends_its_kernel_only() -> None:
    forged = json.dumps(_DONE | {"cell": 1, "final": "forged"})
    code = (
        "import gc, socket\nkept = 1\n"
        "link = next(o for o in gc.get_objects() if isinstance(o, socket.socket))\n"
        f"link.sendall({forged!r}.encode() + b'\\n')"
    )
    session = Session(_start(BubblewrapSandbox()), 60.0)
    try:
        first = await session.run(code, _serve)
        assert first.done is not None
        assert first.done.final == "forged"  # as a cell may say itself
        second = await session.run("print('real')", _serve)
        assert second.done is None  # what the first had said itself came when it was not its turn
        third = await session.run("print('real')", _serve)
        assert third.done is not None
        assert third.done.output.head == "real\n"
    finally:
        await session.close()


async def test_the_socket_lets_in_one_peer_and_only_with_the_token() -> None:
    sandbox = Watched()
    async with _start(sandbox)() as link:
        assert sandbox.folder is not None
        token = json.loads((sandbox.folder / "session.json").read_bytes())["token"].encode()
        assert sandbox.folder.parent.stat().st_mode & 0o077 == 0  # others of this machine cannot reach it
        for greeting in (b"", b"x" * 64 + b"\n", token[:-1] + b"x\n", token + b"\n"):
            reader, writer = await asyncio.open_unix_connection(sandbox.folder / "socket")
            writer.write(greeting + _line())
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
        await link.send({"type": "cell", "cell": 1, "source": "context + 'd'"})
        done = await link.receive(60)
        assert isinstance(done, Done)
        assert done.output.head == "'abcd'\n"


async def test_whoever_comes_before_the_kernel_without_the_token_is_sent_away() -> None:
    sandbox = Intruded()
    async with _start(sandbox)() as link:
        await link.send({"type": "cell", "cell": 1, "source": "context + 'd'"})
        done = await link.receive(60)
    assert isinstance(done, Done)
    assert done.output.head == "'abcd'\n"
    assert not any(sandbox.answers)


async def test_a_kernel_leaves_nothing_behind() -> None:
    sandbox = Watched()
    async with _start(sandbox)():
        pass
    assert sandbox.folder is not None
    assert not sandbox.folder.parent.exists()


async def test_a_cell_that_takes_all_memory_is_told_so() -> None:
    limits = SandboxLimits(memory_bytes=128 << 20)
    async with kernel(BubblewrapSandbox(), Inputs(question="q"), limits, 1000) as link:
        source = "x = []\nwhile True: x.append(bytearray(b'1' * (1 << 20)))"
        await link.send({"type": "cell", "cell": 1, "source": source})
        try:
            done = await link.receive(60)
        except KernelError as error:
            assert "out of memory" in str(error)  # noqa: PT017 - either end is one
        else:
            assert isinstance(done, Done)
            assert done.error is not None
            assert done.error.type == "MemoryError"


async def test_cells_may_ask_from_threads_but_not_from_other_processes() -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\nimport os\n"
        "with ThreadPoolExecutor(4) as pool: print(list(pool.map(llm_query, 'abcd')))\n"
        "r, w = os.pipe()\n"
        "if not os.fork():\n"
        "    try: llm_query('x')\n"
        "    except SubcallError as e: os.write(w, e.kind.encode())\n"
        "    os._exit(0)\n"
        "print(os.read(r, 99))"
    )
    session = Session(_start(BubblewrapSandbox()), 60.0)
    try:
        end = await session.run(code, _serve)
    finally:
        await session.close()
    assert end.done is not None
    assert end.done.error is None
    assert end.done.output.head == "['told a', 'told b', 'told c', 'told d']\nb'engine'\n"


@pytest.mark.parametrize(
    ("code", "kind", "line"),
    [
        ("x = 1\ny = 1 / 0", "ZeroDivisionError", 2),
        ("x = (", "SyntaxError", 1),
        ("import sys\n\nsys.exit(0)", "SystemExit", 3),
        ("def f(): return f()\nf()", "RecursionError", 1),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", 1),
        ("class E(Exception):\n    def __str__(self): raise E\nraise E", "E", 3),
        ("'\ud800'.x", "UnicodeEncodeError", None),
        ("FINAL('  ' + context[:0])", "ValueError", 1),
        ("context\nFINAL_VAR('nowhere')", "NameError", 2),
        ("context\nFINAL(context * 400_000)", "ValueError", 2),
        ("answer['content'] = context * 400_000", "ValueError", None),
    ],
)
async def test_an_error_carries_its_type_and_the_line_of_the_cell(
    code: str, kind: str, line: int | None
) -> None:
    session = Session(_start(BubblewrapSandbox()), 60.0)
    try:
        end = await session.run(code, _serve)
        again = await session.run("context", _serve)
    finally:
        await session.close()
    assert end.done is not None
    assert end.done.error is not None
    assert (end.done.error.type, end.done.error.line) == (kind, line)
    assert end.done.final is None
    assert again.done is not None


async def test_a_class_body_sees_the_input_and_builtins_and_no_other_name() -> None:
    session = Session(_start(BubblewrapSandbox()), 60.0)
    try:
        seen = await session.run("class A:\n    size = len(context)\nprint(A.size)", _serve)
        unseen = await session.run("class B:\n    size = nowhere", _serve)
    finally:
        await session.close()
    assert seen.done is not None
    assert (seen.done.error, seen.done.has_read) == (None, True)
    assert int(seen.done.output.head) > 0
    assert unseen.done is not None
    assert unseen.done.error is not None
    assert unseen.done.error.type == "NameError"
