import os
import pickle
from bisect import bisect_left
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context.symbols import definitions
from pipeline.context.tree.cache import PartCache, packed, unpacked
from pipeline.context.tree.card import skeleton
from pipeline.context.tree.file_parts import file_parts
from pipeline.context.tree.index import index
from pipeline.context.tree.languages import language_of
from pipeline.context.tree.node import LeafLimits, Part
from pipeline.context.tree.repo_tree import IndexedFile, RepoTree
from pipeline.snapshot import Snapshot

SOURCES = Path(__file__).parent / "languages"
_SUFFIXES = ("py", "js", "ts", "tsx", "go", "java", "rs", "c", "cpp", "txt")
_MAX_DEPTH = 10  # a file, eight definitions within each other, and windows
_FRAGMENTS = (
    *(
        "def f(x):\n    return x\n",
        "class A:\n",
        "    def m(self): pass\n",
        "@deco\n",
        "# why\n",
        '"""doc"""\n',
    ),
    *(
        "function f(a) { return 1 }\n",
        "export const g = () => {\n",
        "class B extends C {\n",
        "  m() { }\n",
        "};\n",
    ),
    *("func (r *T) M() int {\n", "type S struct {\n", "public int f() {", "/** d */\n", "// c\n", "}\n", "}"),
    *(
        "impl<T> X for Y<T> {\n",
        "pub fn g() -> u8 {\n",
        "#[test]\n",
        "template <class T>\n",
        "int *h(int a) {\n",
    ),
    *(
        "namespace n {\n",
        "struct P { int a; }; struct Q {\n",
        "\t\tx = 1\r\n",
        "\r",
        "\n\n",
        " \f\n",
        "é🎉\u2028 = 'ß'\n",
    ),
    *("(" * 40, "'''", "/*", "`", "x" * 90, "\ufeff", ";"),
)
_texts = st.one_of(
    st.lists(st.sampled_from(_FRAGMENTS), max_size=40).map("".join),
    st.lists(st.one_of(st.sampled_from(_FRAGMENTS), st.text(max_size=20)), max_size=20).map("".join),
)
_leaf_limits = st.builds(LeafLimits, max_lines=st.integers(1, 12), max_bytes=st.integers(4, 200))


def tree_of(folder: Path, files: dict[str, str | bytes], cache: PartCache | None = None) -> RepoTree:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content.encode() if isinstance(content, str) else content)
    return index(Snapshot(root=folder, commit=""), cache=cache)


def parts_of(path: str, text: str, limits: LeafLimits | None = None) -> Part:
    return file_parts(text.encode(), language_of(path), limits or LeafLimits())


def leaves(part: Part) -> list[Part]:
    return [leaf for inner in part.parts for leaf in leaves(inner)] if part.parts else [part]


def depth(part: Part) -> int:
    return 1 + max(map(depth, part.parts), default=0)


def all_parts(part: Part) -> list[Part]:
    return [part, *(one for inner in part.parts for one in all_parts(inner))]


def names(part: Part) -> list[tuple[str, str, int, int]]:
    found = [one for one in all_parts(part) if one.kind in ("class", "function")]
    return [(one.kind, one.qualname, one.start_line, one.end_line) for one in found]


def assert_well_formed(data: bytes, root: Part, limits: LeafLimits) -> None:
    assert b"".join(data[leaf.start_byte : leaf.end_byte] for leaf in leaves(root)) == data
    feeds = [at for at, byte in enumerate(data) if byte == ord("\n")]
    for part in all_parts(root):
        assert part.start_byte < part.end_byte or not data
        assert part.start_line == bisect_left(feeds, part.start_byte) + 1 or not data
        assert part.end_line == bisect_left(feeds, part.end_byte - 1) + 1 or not data
        ends = [part.start_byte, *(inner.end_byte for inner in part.parts)]
        assert [inner.start_byte for inner in part.parts] == ends[:-1]
    for leaf in leaves(root):
        assert leaf.end_byte - leaf.start_byte <= limits.max_bytes
        assert leaf.end_line - leaf.start_line < limits.max_lines
        data[leaf.start_byte : leaf.end_byte].decode()  # no character is cut in two
    assert depth(root) <= _MAX_DEPTH


@settings(deadline=None, max_examples=300)
@given(text=_texts, suffix=st.sampled_from(_SUFFIXES), limits=_leaf_limits)
def test_leaves_tile_every_file_within_the_limits(text, suffix, limits):
    data = text.encode("utf-8", "replace")
    assert_well_formed(data, file_parts(data, language_of(f"a.{suffix}"), limits), limits)


@settings(deadline=None, max_examples=100)
@given(text=_texts, suffix=st.sampled_from(_SUFFIXES), limits=_leaf_limits)
def test_ids_are_unique_within_a_file(text, suffix, limits):
    data, path = text.encode("utf-8", "replace"), f"a.{suffix}"
    file = IndexedFile(path, "blob", packed(file_parts(data, language_of(path), limits)), len(data))
    nodes = RepoTree({path: file}, {}).nodes(path)
    assert len({node.node_id for node in nodes}) == len(nodes)


@settings(deadline=None, max_examples=100)
@given(text=_texts, suffix=st.sampled_from(_SUFFIXES))
def test_equal_bytes_give_equal_parts_and_the_cache_gives_them_back(text, suffix):
    data = text.encode("utf-8", "replace")
    first, again = (file_parts(data, language_of(f"a.{suffix}"), LeafLimits()) for _ in range(2))
    assert first == again == unpacked(packed(first))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            "shop.py",
            "class Basket 10-28;Basket.__init__ 15-15;Basket.add 16-23;Basket.total 24-28;checkout 32-34",
        ),
        (
            "shop.js",
            "total 4-8;class Basket 9-20;Basket.add 13-16;"
            "Basket.size 17-20;pay 21-24;Basket.prototype.clear 25-27",
        ),
        (
            "shop.ts",
            "class Item 3-7;class Basket 8-18;Basket.add 14-18;class Kind 19-22;isFree 23-25",
        ),
        ("view.tsx", "View 4-7;class Page 8-12;Page.render 9-12"),
        ("shop.go", "class Basket 5-9;Basket.Add 10-14;Total 15-22"),
        (
            "Shop.java",
            "class Shop 5-24;Shop.Shop 8-11;Shop.total 12-17;class Shop.Kind 18-21;class Shop.Item 22-24",
        ),
        (
            "shop.rs",
            "class Basket 3-8;class Basket 9-14;Basket.total 10-14;"
            "class Priced 15-18;class tests 19-25;tests.empty 21-25",
        ),
        ("shop.c", "class item 3-8;class basket 9-11;basket_total 14-22"),
        (
            "shop.cpp",
            "class shop 3-21;class shop.Basket 5-15;shop.Basket.total 9-9;"
            "shop.largest 16-19;shop::Basket<int>::add 22-24",
        ),
    ],
)
def test_each_language_has_its_definitions_with_what_leads_them(path, expected):
    data = (SOURCES / path).read_bytes()
    root = file_parts(data, language_of(path), LeafLimits())
    found = [
        f"{'class ' * (kind == 'class')}{name} {first}-{last}" for kind, name, first, last in names(root)
    ]
    assert ";".join(found) == expected
    assert_well_formed(data, root, LeafLimits())


def test_a_definition_has_its_header_and_the_first_line_of_its_documentation():
    texts = {path: (SOURCES / path).read_text() for path in ("shop.py", "shop.go")}
    parts = {path: {one.qualname: one for one in all_parts(parts_of(path, texts[path]))} for path in texts}
    add = parts["shop.py"]["Basket.add"]
    assert (add.signature, add.doc) == ("def add( self, price: int, ) -> None:", "Put something in.")
    total = parts["shop.go"]["Total"]
    assert (total.signature, total.doc) == ("func Total(b *Basket) int", "Total sums what is in a basket.")


def test_python_has_the_definitions_that_localisation_knows():
    path = "pipeline/context/localise.py"
    source = Path(path).read_bytes()
    known = {(one.kind, one.qualname) for one in definitions(path, source)}
    assert known == {
        (kind, name) for kind, name, *_ in names(file_parts(source, language_of(path), LeafLimits()))
    }


def test_code_that_does_not_parse_keeps_the_definitions_around_the_error():
    broken = "def first():\n    return (\n\n\ndef second():\n    return 2\n\n\n"
    broken += "class Third:\n    def method(self):\n        pass\n"
    found = {name for _, name, *_ in names(parts_of("a.py", broken))}
    assert {"second", "Third.method"} <= found


def test_a_long_function_is_cut_and_what_is_defined_in_it_is_found():
    inner = "    def inner():\n        return 1\n\n"
    text = "def outer():\n" + "    x = 1\n" * 100 + inner + "    x = 2\n" * 100
    root = parts_of("a.py", text)
    assert {name for _, name, *_ in names(root)} == {"outer", "outer.inner"}
    assert {name for _, name, *_ in names(parts_of("a.py", "def outer():\n" + inner))} == {"outer"}


def test_windows_are_cut_at_blank_lines():
    text = "\n".join("\n".join(f"line {i} of {p}" for i in range(50)) + "\n" for p in range(9))
    windows = leaves(parts_of("notes.txt", text))
    assert len(windows) == 5
    assert all(one.signature.startswith("line 0 of") for one in windows)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n" * 30_000,
        "x = 1\n" * 30_000,
        "def f():\n    pass\n" * 15_000,
        "class A:\n" + "    def m(self): pass\n" * 29_999,
        "# c\n" * 30_000,
        "(" * 100_000,
        "é" * 100_000,
        "\r".join(["x = 1"] * 3000),
        "x = [" + "'\t🎉'," * 20_000 + "]\r\n",
        "".join(f"{' ' * i}class C{i}:\n" for i in range(200)),
        "".join(f"{' ' * i}def f{i}():\n" for i in range(400)),
    ],
    ids=lambda text: f"{text[:12]!r} {len(text)}",
)
@pytest.mark.parametrize("suffix", ["py", "ts"])
def test_awkward_files_are_tiled_too(text, suffix):
    assert_well_formed(text.encode(), parts_of(f"a.{suffix}", text), LeafLimits())


def test_nothing_vanishes_each_path_is_kept_or_skipped_with_a_reason(tmp_path):
    files: dict[str, str | bytes] = {
        **{"a.py": "x = 1\n", "bad.py": "def (", "empty/__init__.py": "", "data.csv": "a,b\n"},
        **{
            "logo.png": b"\x89PNG\0",
            "big.py": "x = 1\n" * 200_000,
            "latin.py": "# Zählt Brötchen\n".encode("latin-1"),
        },
        **{"vendor/x.py": "", "node_modules/y/z.js": "", "yarn.lock": "", "a.min.js": "x", "api_pb2.py": "x"},
        **{
            "noise.dat": bytes(range(128, 256)),
            "z.go": "// Code generated by mockgen. DO NOT EDIT.\npackage a\n",
        },
    }
    tree_of(tmp_path, files)
    (tmp_path / "link.py").symlink_to("a.py")
    os.mkfifo(tmp_path / "pipe")
    snapshot = Snapshot(root=tmp_path, commit="")
    tree = index(snapshot)
    assert sorted([*tree.files, *tree.skipped]) == list(snapshot.paths)
    assert sorted(tree.files) == ["a.py", "bad.py", "data.csv", "empty/__init__.py", "latin.py"]
    assert dict(tree.skipped) == {
        **{
            "logo.png": "binary",
            "big.py": "over 1024 KiB",
            "noise.dat": "no text",
            "yarn.lock": "lock file",
        },
        **{"vendor/x.py": "vendored", "node_modules/y/z.js": "vendored", "link.py": "link"},
        **{
            "a.min.js": "generated",
            "api_pb2.py": "generated",
            "z.go": "generated",
            "pipe": "not a regular file",
        },
    }


def test_a_file_that_somebody_names_is_kept_whatever_it_is_called(tmp_path):
    log = "a line of a log\n" * 100_000
    tree_of(tmp_path, {"app.log": log, "yarn.lock": "x\n", "core.bin": b"\0\0"})
    snapshot = Snapshot(root=tmp_path, commit="")

    tree = index(snapshot, documents=["app.log", "yarn.lock", "core.bin"])

    assert sorted(tree.files) == ["app.log", "yarn.lock"]
    assert tree.leaves("app.log")[-1].end_line == 100_000
    assert tree.skipped == {"core.bin": "binary"}


def test_every_node_is_reached_from_the_root_by_its_children(tmp_path):
    files = {"a.py": "class A:\n    def f(self): pass\n", "b/c/d.py": "def g(): pass\n", "b/e.txt": "x\n"}
    tree = tree_of(tmp_path, files)
    reached, waiting = [], [tree.root]
    while waiting:
        node = waiting.pop()
        reached.append(node)
        assert tuple(child.node_id for child in tree.children(node)) == node.children
        waiting += tree.children(node)
    assert sorted(map(repr, reached)) == sorted(map(repr, tree.walk()))
    assert [node.path for node in tree.walk() if node.kind == "package"] == ["b", "b/c"]


def test_an_id_outlives_a_change_elsewhere_and_a_move_of_the_file(tmp_path):
    before = tree_of(tmp_path / "1", {"a.py": "def f(): pass\n", "b.py": "x = 1\n"})
    after = tree_of(tmp_path / "2", {"moved.py": "def f(): pass\n", "b.py": "x = 2\n"})
    assert (
        before.nodes("a.py")[1:] == ()
        or before.nodes("a.py")[1].node_id == after.nodes("moved.py")[1].node_id
    )
    assert before.root.node_id != after.root.node_id
    assert before.file("b.py").node_id != after.file("b.py").node_id


def test_an_index_from_the_cache_is_the_index(tmp_path):
    cache = PartCache(tmp_path / "cache" / "parts.sqlite")
    files = {path.name: path.read_bytes() for path in SOURCES.iterdir()}
    fresh, cached = (tree_of(tmp_path / "tree", files, cache) for _ in range(2))
    assert list(fresh.walk()) == list(cached.walk())


def test_a_changed_file_is_parsed_again_and_no_other(tmp_path):
    cache = PartCache(tmp_path / "parts.sqlite")
    before = tree_of(tmp_path / "tree", {"a.py": "def f(): pass\n", "b.py": "def g(): pass\n"}, cache)
    snapshot = Snapshot(root=tmp_path / "tree", commit="").with_files({"b.py": b"def h(): pass\n"})
    after = index(snapshot, cache=cache)
    assert after.nodes("a.py") == before.nodes("a.py")
    assert [node.qualname for node in after.nodes("b.py")] == ["", "h"]


def test_the_cache_stays_within_its_size_and_the_oldest_parts_go_first(tmp_path):
    path = tmp_path / "parts.sqlite"
    cache = PartCache(path, max_bytes=100_000)
    for number in range(40):
        parts = {f"{number}:{i}": os.urandom(200) for i in range(50)}
        cache.put(parts)
        assert cache.get(parts) == parts

    assert path.stat().st_size < 130_000
    assert cache.get(f"0:{i}" for i in range(50)) == {}


def test_a_damaged_cache_is_begun_anew(tmp_path):
    path = tmp_path / "parts.sqlite"
    path.write_bytes(b"no database" * 1000)
    tree = tree_of(tmp_path / "tree", {"a.py": "def f(): pass\n"}, PartCache(path))
    assert tree.nodes("a.py")
    assert list(tree_of(tmp_path / "tree", {}, PartCache(path)).walk()) == list(tree.walk())


def test_a_tree_can_be_sent_to_another_process(tmp_path):
    tree = tree_of(tmp_path, {"a/b.py": "def f(): pass\n"})
    assert list(pickle.loads(pickle.dumps(tree)).walk()) == list(tree.walk())


def test_a_node_says_about_how_many_tokens_it_has(tmp_path):
    code = b"def f(x):\n    return x\n\n\nclass A:\n    def m(self):\n        return 1\n"
    tree = tree_of(tmp_path, {"a/one.py": code, "a/b/two.py": code, "three.txt": b"words " * 700})
    assert tree.file("three.txt").approx_tokens == 1200
    assert tree.file("a/one.py").approx_tokens == pytest.approx(len(code) / 3.5, abs=1)
    sizes = [tree.package(path).approx_tokens for path in ("a/b", "a", "")]
    assert sizes == pytest.approx([len(code) / 3.5, 2 * len(code) / 3.5, 2 * len(code) / 3.5 + 1200], abs=1)
    inner = [node.approx_tokens for node in tree.children(tree.file("a/one.py"))]
    assert sum(inner) == pytest.approx(len(code) / 3.5, abs=2)


def test_a_card_names_what_is_in_a_node(tmp_path):
    tree = tree_of(tmp_path, {"shop.py": (SOURCES / "shop.py").read_bytes()})
    assert skeleton(tree, tree.root) == "repo /\n  file shop.py (39 lines) - A basket of prices."
    basket = next(node for node in tree.nodes("shop.py") if node.qualname == "Basket")
    assert skeleton(tree, basket).split("\n")[3:] == [
        "  function Basket.add: def add( self, price: int, ) -> None: (16-23) - Put something in.",
        "  function Basket.total: def total(self) -> int: (24-28)",
    ]
    assert skeleton(tree, basket, max_children=1).endswith("\n  and 3 more")
