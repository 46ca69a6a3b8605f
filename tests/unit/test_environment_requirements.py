"""What is read from a project's files. None of the project's code ever runs."""

from pathlib import Path

import pytest

from workers.environment.pyproject import specifier_of
from workers.environment.requirement_files import tier_of_file
from workers.environment.requirements import detect


def write(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_project_without_any_file_needs_nothing(tmp_path):
    found = detect(tmp_path)
    assert (found.runtime, found.test, found.development, found.build) == ((), (), (), ())
    assert not found.is_installable
    assert found.warnings == ()


# One row per place where a requirement may stand: file, its text, the tier, what is found.
DECLARATIONS = [
    ("pyproject.toml", '[project]\nname="p"\ndependencies=["six>=1"]', "runtime", ("six>=1",)),
    ("pyproject.toml", '[project.optional-dependencies]\ntest=["mock"]', "test", ("mock",)),
    ("pyproject.toml", '[project.optional-dependencies]\nTesting=["mock"]', "test", ("mock",)),
    ("pyproject.toml", '[project.optional-dependencies]\ndev=["mock"]', "development", ("mock",)),
    ("pyproject.toml", '[project.optional-dependencies]\ndocs=["furo"]', "test", ()),
    ("pyproject.toml", '[build-system]\nrequires=["flit_core"]', "build", ("flit_core",)),
    (
        "pyproject.toml",
        '[dependency-groups]\ntest=["mock",{include-group="base"}]\nbase=["six"]',
        "test",
        ("mock", "six"),
    ),
    # A group that includes itself must end.
    ("pyproject.toml", '[dependency-groups]\ntest=["mock",{include-group="test"}]', "test", ("mock",)),
    ("pyproject.toml", '[tool.pdm.dev-dependencies]\ntest=["mock"]', "test", ("mock",)),
    ("pyproject.toml", '[tool.uv]\ndev-dependencies=["mock"]', "development", ("mock",)),
    ("pyproject.toml", '[tool.hatch.envs.test]\nextra-dependencies=["mock"]', "test", ("mock",)),
    ("pyproject.toml", '[tool.flit.metadata]\nmodule="m"\nrequires=["six"]', "runtime", ("six",)),
    (
        "pyproject.toml",
        '[tool.poetry]\nname="p"\n[tool.poetry.dependencies]\npython="^3.8"\nsix="^1.2"\n'
        'tomli={version="*",python="<3.11"}\nopt={version="1",optional=true}',
        "runtime",
        ("six<2,>=1.2", 'tomli; python_full_version < "3.11"'),
    ),
    ("pyproject.toml", '[tool.poetry.group.test.dependencies]\nmock={version="~2.1",extras=["a"]}', "test",
     ("mock[a]<2.2,>=2.1",)),
    ("pyproject.toml", '[tool.poetry.dev-dependencies]\nmock="*"', "development", ("mock",)),
    # Plugins without which pytest refuses the project's own options.
    ("pyproject.toml", '[tool.pytest.ini_options]\naddopts="-n auto --cov"', "test", ("pytest-xdist",)),
    ("pyproject.toml", '[tool.pytest.ini_options]\naddopts=["--timeout=3"]', "test", ("pytest-timeout",)),
    ("pytest.ini", "[pytest]\nrequired_plugins = pytest-mock>=1\n", "test", ("pytest-mock>=1",)),
    ("setup.cfg", "[options]\ninstall_requires=\n  six\n  attrs\n", "runtime", ("six", "attrs")),
    ("setup.cfg", "[options.extras_require]\ntests =\n  mock\ndocs = furo\n", "test", ("mock",)),
    ("setup.py", "setup(name='p', install_requires=['six'])", "runtime", ("six",)),
    ("setup.py", "import setuptools\nsetuptools.setup(tests_require='mock\\nsix')", "test", ("mock", "six")),
    ("setup.py", "R=['six']\nR2=R+['attrs']\nsetup(install_requires=R2)", "runtime", ("six", "attrs")),
    ("setup.py", "R=['six']\nsetup(install_requires=[*R,'attrs'])", "runtime", ("six", "attrs")),
    ("setup.py", "k=dict(install_requires=['six'])\nsetup(**k)", "runtime", ("six",)),
    ("setup.py", "setup(extras_require={'test':['mock'],'x':['y']})", "test", ("mock",)),
    ("setup.py", "setup(install_requires=open('r').read().split())", "runtime", ()),
    ("setup.py", "a=b\nb=a\nsetup(install_requires=a)", "runtime", ()),
    ("tox.ini", "[testenv]\ndeps =\n  pytest<8\n  py36: mock\n  {[base]deps}\n  -e .\n", "development",
     ("pytest<8", "mock")),
    ("tox.ini", "[testenv]\nextras = all\n[testenv:docs]\ndeps = furo\n", "development", ()),
    ("tox.toml", '[env_run_base]\ndeps=["mock", "{x}"]', "development", ("mock",)),
    ("pyproject.toml", '[tool.tox.env_run_base]\ndeps=["mock"]', "development", ("mock",)),
    ("pyproject.toml", '[tool.tox]\nlegacy_tox_ini="""\n[testenv]\ndeps = mock\n"""', "development",
     ("mock",)),
    ("Pipfile", '[packages]\nsix="*"\nattrs={version=">=20",extras=["a"]}\nx={path="."}', "runtime",
     ("six", "attrs[a]>=20")),
    ("Pipfile", '[dev-packages]\nmock="~=2.0"', "development", ("mock~=2.0",)),
    ("requirements.txt", "six==1.16 --hash=sha256:00 # why\n\n# note\nattrs \\\n >=20\n", "runtime",
     ("six==1.16", "attrs>=20")),
    ("requirements-dev.txt", "black\nmock\n", "development", ("mock",)),  # black tests nothing
    ("tests/requirements.txt", "mock\n", "test", ("mock",)),
    ("requirements/test.txt", "mock\n", "test", ("mock",)),
]  # fmt: skip


@pytest.mark.parametrize(("path", "text", "tier", "expected"), DECLARATIONS)
def test_requirement_is_found_where_projects_declare_it(tmp_path, path, text, tier, expected):
    assert getattr(detect(write(tmp_path, {path: text})), tier) == expected


def test_files_beside_a_tox_ini_are_found_as_it_names_them(tmp_path):
    tox = "[testenv]\ndeps =\n  -r{toxinidir}/ci/needs.txt\n  -c {tox_root}/ci/limits.txt\n"
    files = {"tox.ini": tox, "ci/needs.txt": "mock\n", "ci/limits.txt": "mock<9\n"}
    found = detect(write(tmp_path, files))
    assert (found.development, found.constraints) == (("mock",), ("mock<9",))


UV = """
[[package]]
name = "six"
version = "1.16.0"
source = { registry = "https://example.org/simple" }
[[package]]
name = "p"
version = "0.1"
source = { editable = "." }
[[package]]
name = "elsewhere"
version = "1"
source = { git = "https://example.org/x.git" }
[[package]]
name = "torch"
version = "2.1+cpu"
source = { registry = "https://example.org/simple" }
[[package]]
name = "numpy"
version = "1.26"
source = { registry = "https://example.org/simple" }
[[package]]
name = "numpy"
version = "2.0"
source = { registry = "https://example.org/simple" }
"""
POETRY = """
[[package]]
name = "six"
version = "1.16.0"
[[package]]
name = "elsewhere"
version = "1"
[package.source]
type = "git"
url = "https://example.org/x.git"
"""
PDM = """
[[package]]
name = "six"
version = "1.16.0"
[[package]]
name = "six"
version = "1.16.0"
extras = ["a"]
[[package]]
name = "elsewhere"
version = "1"
path = "./x"
"""
PYLOCK = """
lock-version = "1.0"
[[packages]]
name = "six"
version = "1.16.0"
[[packages]]
name = "elsewhere"
version = "1"
[packages.vcs]
type = "git"
"""
PIPENV = """{
    "default": {"six": {"version": "==1.16.0"}, "elsewhere": {"git": "https://example.org/x.git"}},
    "develop": {"six": {"version": "==1.16.0"}}
}"""


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("uv.lock", UV),
        ("poetry.lock", POETRY),
        ("pdm.lock", PDM),
        ("pylock.toml", PYLOCK),
        ("Pipfile.lock", PIPENV),
    ],
)
def test_lock_files_pin_what_an_index_has_in_one_version(tmp_path, path, text):
    found = detect(write(tmp_path, {path: text}))
    assert found.pins == ("six==1.16.0",)
    assert (found.runtime, found.warnings) == ((), ())


@pytest.mark.parametrize("path", ["uv.lock", "poetry.lock", "pdm.lock", "pylock.toml", "Pipfile.lock"])
def test_every_lock_file_and_declaration_decides_the_environment(tmp_path, path):
    without = detect(write(tmp_path, {"pyproject.toml": ""})).fingerprint
    first = detect(write(tmp_path, {path: ""})).fingerprint
    second = detect(write(tmp_path, {path: "# other\n"})).fingerprint
    assert len({without, first, second}) == 3


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("pyproject.toml", '[project]\nrequires-python=">=3.9"', ">=3.9"),
        ("pyproject.toml", '[tool.poetry.dependencies]\npython="^3.9"', ">=3.9,<4"),
        ("setup.cfg", "[options]\npython_requires = <3.10\n", "<3.10"),
        ("setup.py", "setup(python_requires='>=3.8')", ">=3.8"),
        ("Pipfile", '[requires]\npython_version="3.9"', "==3.9.*"),
    ],
)
def test_the_python_is_read_where_projects_declare_it(tmp_path, path, text, expected):
    assert detect(write(tmp_path, {path: text})).requires_python == expected


def test_requirements_files_may_name_others_but_none_outside(tmp_path):
    (tmp_path / "secret.txt").write_text("leaked\n")
    tree = write(
        tmp_path / "tree",
        {
            "requirements.txt": "-r requirements/more.txt\n-r ../secret.txt\n-c limits.txt",
            "requirements/more.txt": "six\n",
            "limits.txt": "six<2\n",
        },
    )
    (tree / "requirements-test.txt").symlink_to(tmp_path / "secret.txt")
    found = detect(tree)
    assert set(found.runtime) == {"six"}
    assert found.constraints == ("six<2",)
    assert found.test == ()
    assert any("secret.txt" in warning for warning in found.warnings)


def test_own_extras_are_expanded_and_the_project_itself_is_not_required(tmp_path):
    text = """
        [project]
        name = "My_Pkg"
        [project.optional-dependencies]
        test = ["my-pkg[http]", "mock"]
        http = ["httpx", "my.pkg[test]"]
    """
    assert detect(write(tmp_path, {"pyproject.toml": text})).test == ("httpx", "mock")


def test_extras_named_by_a_requirements_file_are_expanded(tmp_path):
    files = {
        "pyproject.toml": '[project]\nname="p"\n[project.optional-dependencies]\nall=["httpx"]',
        "requirements-test.txt": "-e .[all]\n",
    }
    assert detect(write(tmp_path, files)).test == ("httpx",)


def test_whatever_is_not_from_the_index_is_left_out_with_a_warning(tmp_path):
    lines = [
        "evil @ https://example.org/evil.tar.gz",
        "git+https://example.org/x.git#egg=x",
        "-e git+https://example.org/y.git#egg=y",
        "./vendored",
        "/etc/passwd",
        "--index-url https://example.org/simple",
        "--extra-index-url=https://example.org/simple",
        "not a requirement!",
    ]
    found = detect(write(tmp_path, {"requirements.txt": "\n".join([*lines, "six"])}))
    assert found.runtime == ("six",)
    assert len(found.warnings) == len(lines)


def test_code_in_setup_py_does_not_run(tmp_path):
    witness = tmp_path / "witness"
    code = f"open({str(witness)!r}, 'w')\nsetup(name='p', install_requires=[*map(str, ['x'])] or exit(3))"
    tree = write(tmp_path / "tree", {"setup.py": code})
    found = detect(tree)
    assert not witness.exists()
    assert (found.name, found.runtime) == ("p", ())


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("pyproject.toml", "[project\n"),
        ("pyproject.toml", 'project = 3\n[tool]\npoetry = "x"\npytest = []\n'),
        ("pyproject.toml", "x = " + "[" * 10_000),
        ("setup.cfg", "no section\n"),
        ("setup.py", "print 'python 2'\n"),
        ("setup.py", "(" * 500),
        ("setup.py", "\0"),
        ("tox.ini", "[testenv]\n[testenv]\n=\n"),
        ("tox.toml", "env_run_base = 3\n"),
        ("pyproject.toml", '[tool.tox]\nlegacy_tox_ini = "no section"\n'),
        ("Pipfile", "packages = [\n"),
        ("Pipfile.lock", "[]"),
        ("Pipfile.lock", '{"default": {"x": {"version": 3}, "y": []}, "develop": 1}'),
        ("uv.lock", "[[package]]\nname = 3\n[[package]]\nsource = 3\n"),
        ("poetry.lock", 'package = ["x"]'),
    ],
)
def test_broken_files_are_a_warning_at_most(tmp_path, path, text):
    found = detect(write(tmp_path, {path: text, "requirements.txt": "six\n"}))
    assert found.runtime == ("six",)


@pytest.mark.parametrize(
    ("constraint", "specifier"),
    [
        ("*", ""),
        ("^1.2.3", ">=1.2.3,<2"),
        ("^0.2.3", ">=0.2.3,<0.3"),
        ("^0.0.3", ">=0.0.3,<0.0.4"),
        ("^0", ">=0,<1"),
        ("~1.2.3", ">=1.2.3,<1.3"),
        ("~1", ">=1,<2"),
        ("1.2.*", "==1.2.*"),
        ("1.2.3", "==1.2.3"),
        (">=1.2,<2", ">=1.2,<2"),
        (">=1.2 <2", ">=1.2,<2"),
        ("~=1.4", "~=1.4"),
        ("^1 || ^2", ""),
        ("^1.0b2", ">=1.0b2,<2"),
    ],
)
def test_poetry_constraints_become_specifiers(constraint, specifier):
    assert specifier_of(constraint) == specifier


@pytest.mark.parametrize(
    ("path", "tier"),
    [
        ("requirements.txt", "runtime"),
        ("requirements/base.txt", "runtime"),
        ("test-requirements.txt", "test"),
        ("requirements_dev.txt", "development"),
        ("requirements/dev.txt", "development"),
        ("requirements-docs.txt", ""),
        ("docs/requirements.txt", ""),
        ("examples/app/requirements.txt", ""),
        ("requirements.md", ""),
        ("requirements", ""),
    ],
)
def test_requirements_files_are_told_by_their_names(path, tier):
    assert tier_of_file(path) == tier


def test_fingerprint_changes_with_what_decides_the_environment_and_nothing_else(tmp_path):
    tree = write(tmp_path, {"requirements.txt": "six\n", "a.py": "1\n", "ext.c": "1\n", "uv.lock": "1\n"})
    first = detect(tree).fingerprint
    write(tree, {"a.py": "2\n"})
    assert detect(tree).fingerprint == first
    for path in ("requirements.txt", "ext.c", "uv.lock"):
        write(tree, {path: "six<9\n"})
        assert detect(tree).fingerprint != first
        first = detect(tree).fingerprint
