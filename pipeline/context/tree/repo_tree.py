"""The tree of one snapshot. Files are held packed and unfold into nodes when they are asked for."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.context.tree.cache import unpacked
from pipeline.context.tree.node import Node, NodeKind, Part, node_id


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """A kept file: its git blob, and its parts as the cache has them."""

    path: str
    blob: str
    packed: bytes
    num_bytes: int  # of the file itself

    @property
    def node_id(self) -> str:
        """The id of the file's node."""
        return node_id(self.blob, "file", self.path, 0, 0)


@dataclass(slots=True)
class _Folder:
    folders: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


class RepoTree:
    """Repository, packages (its folders), files, classes, functions, windows; and what was skipped.

    It is immutable and can be pickled. Ids are unique within a file; across files, equal blobs share them.
    """

    def __init__(self, files: Mapping[str, IndexedFile], skipped: Mapping[str, str]) -> None:
        self.files = files
        self.skipped = skipped  # path -> reason
        self._folders = _folders(files)
        self._packages: dict[str, Node] = {}
        self.root = self._add_package("")

    def children(self, node: Node) -> tuple[Node, ...]:
        """Return a node's children, in order."""
        if node.kind in ("repo", "package"):
            folder = self._folders[node.path]
            return tuple(
                [self._packages[path] for path in folder.folders] + [self.file(path) for path in folder.files]
            )
        nodes = {one.node_id: one for one in self.nodes(node.path)}
        return tuple(nodes[child] for child in node.children)

    def package(self, path: str) -> Node:
        """Return a folder's node; "" is the repository.

        Raises:
            KeyError: the tree keeps nothing there.
        """
        return self._packages[path]

    def file(self, path: str) -> Node:
        """Return a file's node.

        Raises:
            KeyError: the tree does not keep such a file.
        """
        return self.nodes(path)[0]

    def nodes(self, path: str) -> tuple[Node, ...]:
        """Return all nodes of a file: itself, then each before its children.

        Raises:
            KeyError: the tree does not keep such a file.
        """
        file = self.files[path]
        found: list[Node] = []
        _add_nodes(found, file, unpacked(file.packed))
        return tuple(found)

    def leaves(self, path: str) -> tuple[Node, ...]:
        """Return a file's leaves: put together in order they are the file. A file of no bytes is one leaf."""
        return tuple(node for node in self.nodes(path) if not node.children)

    def walk(self) -> Iterator[Node]:
        """Yield every node, each before its children."""
        yield from self._walk(self.root)

    def _walk(self, package: Node) -> Iterator[Node]:
        yield package
        folder = self._folders[package.path]
        for path in folder.folders:
            yield from self._walk(self._packages[path])
        for path in folder.files:
            yield from self.nodes(path)

    def _add_package(self, path: str) -> Node:
        folder = self._folders[path]
        children = [self._add_package(inner).node_id for inner in folder.folders]
        children += [self.files[inner].node_id for inner in folder.files]
        num_bytes = sum(self._packages[inner].end_byte for inner in folder.folders)
        num_bytes += sum(self.files[inner].num_bytes for inner in folder.files)
        content = hashlib.sha256("\0".join(children).encode()).hexdigest()
        kind: NodeKind = "package" if path else "repo"
        self._packages[path] = Node(
            node_id=node_id(content, kind, path, 0, 0),
            kind=kind,
            path=path,
            qualname="",
            start_line=0,
            end_line=0,
            start_byte=0,
            end_byte=num_bytes,
            signature="",
            doc="",
            children=tuple(children),
        )
        return self._packages[path]


def _folders(paths: Mapping[str, IndexedFile]) -> Mapping[str, _Folder]:
    found: dict[str, _Folder] = defaultdict(_Folder)
    found[""] = _Folder()
    for path in sorted(paths):
        parts = path.split("/")
        for depth in range(1, len(parts)):
            inner = "/".join(parts[:depth])
            if inner not in found:
                found["/".join(parts[: depth - 1])].folders.append(inner)
                found[inner] = _Folder()
        found["/".join(parts[:-1])].files.append(path)
    return dict(found)


def _add_nodes(found: list[Node], file: IndexedFile, part: Part) -> str:
    """Add a part's node, then those of its parts, and return its id."""
    place = len(found)
    name = part.qualname
    its_id = (
        file.node_id
        if part.kind == "file"
        else node_id(file.blob, part.kind, name, part.start_byte, part.end_byte)
    )
    found.append(_node(file.path, its_id, part, ()))
    children = tuple([_add_nodes(found, file, inner) for inner in part.parts])
    if children:
        found[place] = _node(file.path, its_id, part, children)
    return its_id


def _node(path: str, its_id: str, part: Part, children: tuple[str, ...]) -> Node:
    return Node(
        node_id=its_id,
        kind=part.kind,
        path=path,
        qualname=part.qualname,
        start_line=part.start_line,
        end_line=part.end_line,
        start_byte=part.start_byte,
        end_byte=part.end_byte,
        signature=part.signature,
        doc=part.doc,
        children=children,
    )
