"""A deterministic summary of a node: what it is called, and the names and headers of what is in it."""

from __future__ import annotations

from pipeline.context.tree.node import Node
from pipeline.context.tree.repo_tree import RepoTree


def skeleton(tree: RepoTree, node: Node, *, max_children: int = 200) -> str:
    """Return a card of a node: a line for itself and one for each child, those over the limit counted."""
    children = tree.children(node)
    lines = [_line(node), *(f"  {_line(child)}" for child in children[:max_children])]
    if len(children) > max_children:
        lines.append(f"  and {len(children) - max_children} more")
    return "\n".join(lines)


def _line(node: Node) -> str:
    if node.kind in ("repo", "package"):
        return f"{node.kind} {node.path or '/'}"
    if node.kind == "file":
        head = f"file {node.path} ({node.end_line} lines)"
    else:
        said = f": {node.signature}" if node.signature else ""
        name = f" {node.qualname}" if node.qualname else ""
        head = f"{node.kind}{name}{said} ({node.start_line}-{node.end_line})"
    return f"{head} - {node.doc}" if node.doc else head
