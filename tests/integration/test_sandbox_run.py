"""What a run gets and gives back, in every sandbox: files, variables, output, exit codes, mounts."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from pipeline.core import Mount, Outcome, PreparedEnvironment, SandboxRequest
from pipeline.protocols import Sandbox
from tests.integration.sandbox_tools import layer, limits, member, python, shell

pytestmark = pytest.mark.integration


async def test_layers_are_unpacked_in_order_and_later_ones_win(sandbox: Sandbox) -> None:
    layers = (layer({"a.txt": b"base", "pkg/b.txt": b"base"}), layer({"a.txt": b"patched"}))
    result = await sandbox.run(shell("pwd; cat a.txt pkg/b.txt", layers=layers))
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 0)
    assert result.stdout.text() == "/workspace\npatchedbase"


async def test_a_large_layer_arrives_unchanged(sandbox: Sandbox) -> None:
    content = hashlib.shake_128(b"seed").digest(20 << 20)
    result = await sandbox.run(shell("sha256sum < big", layers=(layer({"big": content}),)))
    assert result.stdout.text().split()[0] == hashlib.sha256(content).hexdigest()


async def test_arguments_arrive_as_they_were_given(sandbox: Sandbox) -> None:
    given = ("", "two words", "$HOME `id` 'quoted\"", "-n", "line\nbreak", "ümlaut", "*")
    result = await sandbox.run(python("import json, sys; print(json.dumps(sys.argv[1:]))", *given))
    assert json.loads(result.stdout.text()) == list(given)


async def test_nothing_of_the_hosts_environment_is_inherited(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    environment = PreparedEnvironment(
        environment_id="e", python="python3", mounts=(), env={"FROM_ENVIRONMENT": "1", "BOTH": "environment"}
    )
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    result = await sandbox.run(python(code, environment=environment, env={"BOTH": "request"}))
    seen = json.loads(result.stdout.text())
    base = {"PATH", "HOME", "LANG", "TZ", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE"}
    assert set(seen) - {"PWD", "HOSTNAME", "LC_CTYPE"} == base | {"FROM_ENVIRONMENT", "BOTH"}
    assert (seen["BOTH"], seen["TZ"], seen["PYTHONHASHSEED"]) == ("request", "UTC", "0")


@pytest.mark.parametrize(
    ("script", "exit_code"),
    [("exit 0", 0), ("exit 7", 7), ("kill -SEGV $$", 139), ("exec /no/such/program", 127)],
)
async def test_the_exit_code_is_the_commands(sandbox: Sandbox, script: str, exit_code: int) -> None:
    result = await sandbox.run(shell(script))
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, exit_code)


async def test_output_is_kept_as_head_and_tail_with_its_true_length(sandbox: Sandbox) -> None:
    code = "import sys; sys.stdout.write('H' * 5000 + 'T' * 5000); sys.stderr.write('e' * 10)"
    result = await sandbox.run(python(code, limits=limits(output_bytes=2048)))
    assert result.stdout.num_bytes == 10_000
    assert (result.stdout.head, result.stdout.tail) == (b"H" * 1024, b"T" * 1024)
    assert (result.stderr.head, result.stderr.tail, result.stderr.num_bytes) == (b"e" * 10, b"", 10)


async def test_the_command_reads_an_empty_stdin(sandbox: Sandbox) -> None:
    result = await sandbox.run(shell("cat; echo end", layers=(layer({"a": b"x"}),)))
    assert result.stdout.text() == "end\n"


async def test_parallel_runs_do_not_meet(sandbox: Sandbox) -> None:
    script = "echo $1 > mine; sleep 0.3; cat mine; ls /workspace /tmp"
    results = await asyncio.gather(*(sandbox.run(shell(script, f"run-{n}")) for n in range(6)))
    assert [result.stdout.text() for result in results] == [
        f"run-{n}\n/tmp:\nhome\n\n/workspace:\nmine\n" for n in range(6)
    ]


async def test_usage_is_measured(sandbox: Sandbox) -> None:
    code = "import time\nkept = b'x' * (80 << 20)\nwhile time.process_time() < 0.7: pass"
    result = await sandbox.run(python(code))
    assert result.wall_seconds >= 0.5
    assert result.cpu_seconds is not None
    assert result.cpu_seconds >= 0.5
    assert result.peak_memory_bytes is not None
    assert result.peak_memory_bytes >= 80 << 20


async def test_named_files_come_back_from_results(sandbox: Sandbox) -> None:
    script = "printf '\\000\\377' > /results/report.xml; echo no > /results/other; cd /results; exit 1"
    result = await sandbox.run(shell(script, collect=("report.xml", "missing")))
    assert dict(result.collected) == {"report.xml": b"\x00\xff"}
    assert result.exit_code == 1


async def test_a_noisy_daemon_does_not_spoil_what_comes_after_the_command(sandbox: Sandbox) -> None:
    daemons = "(while :; do echo noise; done) & (while :; do echo x >> /results/f; done) &"
    script = f"{daemons} until [ -s /results/f ]; do :; done; exit 5"
    result = await sandbox.run(shell(script, collect=("f",), limits=limits(output_bytes=8 << 20)))
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 5)
    assert set(result.collected["f"].split()) == {b"x"}
    assert result.cpu_seconds is not None


async def test_a_read_only_mount_cannot_be_written_and_a_writable_one_can(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    for name in ("fixed", "open"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("host")
    mounts = (
        Mount(source=str(tmp_path / "fixed"), target="/opt/fixed"),
        Mount(source=str(tmp_path / "open"), target="/opt/open", read_only=False),
    )
    script = "cat /opt/fixed/file; touch /opt/fixed/new || echo refused; echo in > /opt/open/new"
    result = await sandbox.run(shell(script, mounts=mounts))
    assert result.stdout.text() == "hostrefused\n"
    assert sorted(path.name for path in (tmp_path / "fixed").iterdir()) == ["file"]
    assert (tmp_path / "open" / "new").read_text() == "in\n"


async def test_a_link_inside_a_layer_is_kept(sandbox: Sandbox) -> None:
    layers = (layer({"a": b"text"}, (member("b", tarfile.SYMTYPE, "a"),)),)
    result = await sandbox.run(shell("cat b; readlink b", layers=layers))
    assert result.stdout.text() == "texta\n"


async def test_a_missing_program_is_the_commands_own_failure(sandbox: Sandbox) -> None:
    result = await sandbox.run(SandboxRequest(argv=("no-such-program",)))
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 127)
