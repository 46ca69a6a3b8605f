"""What a user relies on in the choice of dtype, in the store and on the command line, without any model."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from model.exceptions import ModelError
from model.provision import default_dtype, list_models, pull, resolve, store, store_root, verify
from model.provision.catalogue import CATALOGUE, DEFAULT_MODEL, DTYPES
from model.provision.progress import Progress, ignore


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPWRIGHT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("fpu avx2 avx512f avx512_vnni", "int8"),  # Cascade Lake
        ("fpu avx2 avx_vnni", "int8"),  # client CPUs without AVX-512
        ("avx512f avx512_vnni avx512_bf16 amx_bf16 amx_int8", "int8"),  # Sapphire Rapids
        ("avx512f avx512_bf16", "bfloat16"),
        ("fpu avx avx2 avx512f", "float32"),  # Skylake: bfloat16 would be emulated
    ],
)
def test_dtype_follows_the_cpu(tmp_path, flags, dtype):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: spectre_v1\n")
    assert default_dtype(cpuinfo) == dtype


def test_dtype_is_float32_where_the_cpu_cannot_be_asked(tmp_path):
    assert default_dtype(tmp_path / "missing") == "float32"


def test_importing_provisioning_loads_no_heavy_package():
    heavy = ("torch", "transformers", "gguf", "huggingface_hub", "numpy")
    code = f"import sys, model.provision; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_store_lies_where_loopwright_home_says(home):
    assert store_root() == home / "models"


def test_catalogue_pins_every_source():
    for entry in CATALOGUE.values():
        assert len(entry.hub.revision) == 40, "a commit, not a branch"
        assert len(entry.mirror.sha256) == 64
        assert all(entry.estimated_bytes(dtype) > entry.num_parameters for dtype in DTYPES)


def make_variant(name="qwen2.5-coder-0.5b", dtype="int8", content=b"weights"):
    with store.building(name, dtype) as (folder, finish):
        (folder / "model.safetensors").write_bytes(content)
        (folder / "config.json").write_text("{}")
        finish(
            store.Manifest(
                name=name,
                dtype=dtype,
                source="local",
                location="x",
                revision="",
                conversion_version=store.CONVERSION_VERSION,
                files=store.record_files(folder, ignore),
            )
        )
    return store.variant_folder(name, dtype)


def test_a_finished_model_is_found_by_name():
    folder = make_variant()
    assert resolve("qwen2.5-coder-0.5b", "int8") == folder
    assert pull("qwen2.5-coder-0.5b", dtype="int8") == folder, "nothing is fetched again"


def test_auto_takes_another_dtype_where_only_that_is_present():
    folder = make_variant(dtype="float32")
    assert resolve("qwen2.5-coder-0.5b") == folder
    with pytest.raises(ModelError, match="not present as bfloat16") as caught:
        resolve("qwen2.5-coder-0.5b", "bfloat16")
    assert "pull qwen2.5-coder-0.5b --dtype bfloat16" in caught.value.hint


def test_a_model_that_was_not_finished_is_not_trusted_and_leaves_nothing(home):
    def interrupted():
        with store.building("qwen2.5-coder-0.5b", "int8") as (folder, _finish):
            (folder / "model.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ModelError):
        resolve("qwen2.5-coder-0.5b", "int8")
    assert [path for path in (home / "models").rglob("*") if path.is_file()] == []


def test_a_folder_without_a_manifest_is_not_trusted():
    folder = make_variant()
    (folder / store.MANIFEST_NAME).unlink()
    with pytest.raises(ModelError):
        resolve("qwen2.5-coder-0.5b", "int8")
    assert verify("qwen2.5-coder-0.5b")[0].problems == ("loopwright-model.json: missing or unreadable",)


def test_a_truncated_file_is_noticed_without_hashing():
    folder = make_variant()
    (folder / "model.safetensors").write_bytes(b"weight")
    with pytest.raises(ModelError):
        resolve("qwen2.5-coder-0.5b", "int8")


def test_a_model_of_another_conversion_is_made_anew():
    manifest_path = make_variant() / store.MANIFEST_NAME
    fields = json.loads(manifest_path.read_text()) | {"conversion_version": 0}
    manifest_path.write_text(json.dumps(fields))
    with pytest.raises(ModelError):
        resolve("qwen2.5-coder-0.5b", "int8")


def test_verify_names_the_file_that_was_changed():
    folder = make_variant()
    assert verify("qwen2.5-coder-0.5b")[0].problems == ()
    (folder / "model.safetensors").write_bytes(b"weightz")
    (folder / "config.json").unlink()
    assert verify("qwen2.5-coder-0.5b")[0].problems == (
        "config.json: missing",
        "model.safetensors: sha256 differs",
    )


def test_a_finished_model_replaces_a_damaged_one():
    make_variant(content=b"old")
    folder = make_variant(content=b"new")
    assert (folder / "model.safetensors").read_bytes() == b"new"
    assert [path.name for path in folder.parent.iterdir()] == ["int8"]


def test_any_checkpoint_folder_can_be_the_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert resolve(str(tmp_path)) == tmp_path


def test_a_gguf_file_as_the_model_says_how_to_convert_it(tmp_path):
    path = tmp_path / "some.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="must be converted first") as caught:
        resolve(str(path))
    assert f"--source {path}" in caught.value.hint


@pytest.mark.parametrize("name", ["no-such-model", "../escape", "/nowhere", "", "Qwen/Qwen2.5"])
def test_unknown_models_are_refused_with_the_known_names(name):
    with pytest.raises(ModelError) as caught:
        resolve(name)
    assert "qwen2.5-coder-0.5b" in caught.value.hint
    with pytest.raises(ModelError):
        pull(name)


def test_a_name_cannot_leave_the_store(tmp_path):
    with pytest.raises(ModelError, match="no name for a model"):
        pull("../escape", source=str(tmp_path))


def test_list_shows_the_catalogue_and_the_models_of_ones_own():
    make_variant(name="mine", dtype="float32")
    models = {model.name: model for model in list_models()}
    assert set(models) == {*CATALOGUE, "mine"}
    assert [variant.dtype for variant in models["mine"].variants] == ["float32"]
    assert models["qwen2.5-coder-0.5b"].variants == ()


def test_a_full_disk_is_noticed_before_anything_is_written():
    with pytest.raises(ModelError, match=r"needs .* GB") as caught:
        store.require_space(1 << 60, "pulling a model")
    assert "LOOPWRIGHT_HOME" in caught.value.hint


def test_a_source_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        pull("mine", source=str(tmp_path / "missing"))


def test_a_second_process_waits_for_the_first():
    """The second says that it waits, and goes on when the first is done."""
    waiting = """
import sys
from model.provision.store import model_lock
with model_lock("mine", lambda progress: print(progress.step, flush=True)):
    print("has it", flush=True)
"""
    with store.model_lock("mine", ignore):
        second = subprocess.Popen([sys.executable, "-c", waiting], stdout=subprocess.PIPE, text=True)
        assert second.stdout.readline() == "wait\n"
        assert second.poll() is None
    assert second.communicate(timeout=60)[0] == "has it\n"


def run_cli(*args):
    return subprocess.run(
        [sys.executable, "-c", "from pipeline.cli import main; main()", "model", *args],
        capture_output=True,
        text=True,
        env=os.environ.copy(),
        check=False,
    )


def test_path_prints_the_folder_alone_on_stdout():
    folder = make_variant(DEFAULT_MODEL, dtype="float32")
    result = run_cli("path", "--dtype", "float32")
    assert (result.returncode, result.stdout) == (0, f"{folder}\n")


def test_path_of_an_absent_model_exits_4_and_says_how_to_get_it():
    result = run_cli("path", "--dtype", "float32")
    assert (result.returncode, result.stdout) == (4, "")
    assert f"loopwright model pull {DEFAULT_MODEL} --dtype float32" in result.stderr


def test_verify_exits_4_on_damage_and_0_without():
    folder = make_variant(DEFAULT_MODEL)
    assert run_cli("verify").returncode == 0
    (folder / "model.safetensors").write_bytes(b"weightz")
    result = run_cli("verify")
    assert result.returncode == 4
    assert "model.safetensors: sha256 differs" in result.stdout


def test_list_prints_json_that_names_what_is_here():
    folder = make_variant()
    models = json.loads(run_cli("list", "--json").stdout)
    assert models[0]["variants"][0]["path"] == str(folder)


def test_an_unknown_dtype_is_bad_input():
    result = run_cli("path", "--dtype", "int3")
    assert result.returncode == 2
    assert "int8" in result.stderr


def test_progress_without_a_terminal_is_a_few_lines(capsys):
    from pipeline.cli.model_commands import progress_shown

    with progress_shown() as show:
        for done in range(1001):
            show(Progress("convert", done, 1000, "tensor"))
    assert len(capsys.readouterr().err.splitlines()) == 2, "one when it begins, one when it ends"
