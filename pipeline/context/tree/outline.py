"""The definitions of a source, nested as they stand, by a tree-sitter query."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

import tree_sitter

from pipeline.context.tree.languages import Language

_MAX_SIGNATURE_CHARS = 200
_MAX_ERROR_CHILDREN = 5000  # a second of a query, or so
_DOCSTRING = re.compile(rb"\s*[rRuU]?(?:\"\"\"|'''|\"|')\s*([^\n\"']*)")
_COMMENT_MARKS = " \t\r/*#!-=<>@"
_OWNER = re.compile(r"(\w+)\s*(?:\[[^\]]*\])?\s*\)$")  # T of a Go receiver: (t *T) or (t *T[K])
_CALLABLE = re.compile(r"(operator\s*[^\s(]+|operator\s*\(\s*\)|(?:[~\w:]|<[^<>()]*>)+)\s*\(")
_COMMENTS, _NO_COMMENTS = (b"//", b"/*", b"*", b"#"), (b"#!", b"#[", b"#include", b"@")
_NEW_LINE, _BLANK = b"\n", b" \t\r\f"


@dataclass(slots=True)
class Item:
    """A definition and what is defined in it."""

    kind: Literal["class", "function"]
    name: str
    lead_byte: int  # where the line begins that it, its comments, decorators or attributes start on
    start_byte: int
    end_byte: int  # not included
    signature: str
    doc: str
    items: list[Item] = field(default_factory=list)


def outline(source: bytes, language: Language) -> list[Item]:
    """Return the outermost definitions; broken code has those that can still be told."""
    tree = language.parser.parse(source)
    if tree.root_node.has_error and _is_wreck(tree.root_node):
        return []
    leads: dict[int, int] = {}
    found: dict[int, tuple[tree_sitter.Node, dict[str, list[tree_sitter.Node]]]] = {}
    for _, captures in tree_sitter.QueryCursor(language.query).matches(tree.root_node):
        if "lead" in captures:
            _add_lead(leads, source, captures["lead"][0])
            continue
        node = (captures.get("class") or captures["function"])[0]
        name = captures["name"][0].start_byte
        # A template and the class in it, or a typedef and its struct, are one definition: the wider one.
        if name not in found or _size(found[name][0]) < _size(node):
            found[name] = (node, captures)
    items = [_item(source, node, captures, leads) for node, captures in found.values()]
    return _nested(sorted(items, key=lambda item: (item.start_byte, -item.end_byte)))


def _is_wreck(root: tree_sitter.Node) -> bool:
    """Say whether an error has so many tokens that a query, whose time is their square, takes too long."""
    stack = [root]
    while stack:
        node = stack.pop()
        if node.is_error and node.child_count > _MAX_ERROR_CHILDREN:
            return True
        stack += [child for child in node.children if child.has_error]
    return False


def _text(source: bytes, node: tree_sitter.Node) -> bytes:
    return source[node.start_byte : node.end_byte]  # Node.text copies the whole source first


def _size(node: tree_sitter.Node) -> int:
    return node.end_byte - node.start_byte


def _add_lead(leads: dict[int, int], source: bytes, node: tree_sitter.Node) -> None:
    """Note the lines of a comment or decorator that stands alone, by where the next line begins."""
    start = source.rfind(_NEW_LINE, 0, node.start_byte) + 1
    if not source[start : node.start_byte].strip(_BLANK):
        end = source.find(_NEW_LINE, max(node.end_byte - 1, start))
        leads[len(source) if end < 0 else end + 1] = start


def _item(
    source: bytes, node: tree_sitter.Node, captures: dict[str, list[tree_sitter.Node]], leads: dict[int, int]
) -> Item:
    lead = source.rfind(_NEW_LINE, 0, node.start_byte) + 1
    while lead in leads and leads[lead] < lead:
        lead = leads[lead]
    body = captures.get("body")
    header_end = body[0].start_byte if body else node.end_byte
    return Item(
        kind="class" if "class" in captures else "function",
        name=_name(source, captures),
        lead_byte=lead,
        start_byte=node.start_byte,
        end_byte=node.end_byte,
        signature=one_line(source[node.start_byte : header_end]).rstrip("{ "),
        doc=_doc(source[lead : node.start_byte], source[header_end : header_end + 400]),
    )


def _name(source: bytes, captures: dict[str, list[tree_sitter.Node]]) -> str:
    text = one_line(_text(source, captures["name"][0]))
    callable_ = _CALLABLE.search(text)  # a declarator of C: *f(int a)
    if callable_ and "operator" not in text:
        text = callable_[1]
    elif callable_:
        text = text[: text.rfind("(")].lstrip("*& ")
    else:
        text = text.partition("<")[0] or text  # Basket of Basket<T>
    if "owner" in captures:
        owner = _OWNER.search(one_line(_text(source, captures["owner"][0])))
        text = f"{owner[1]}.{text}" if owner else text
    return text


def one_line(text: bytes) -> str:
    """Return a piece of source as one line, cut at 200 characters."""
    clipped = text[: 4 * _MAX_SIGNATURE_CHARS].decode("utf-8", "ignore")
    return " ".join(clipped.split())[:_MAX_SIGNATURE_CHARS]


def _doc(lead: bytes, body: bytes) -> str:
    return docstring(body) or first_comment(lead)


def docstring(body: bytes) -> str:
    """Return the first line of the string that a body begins with."""
    found = _DOCSTRING.match(body)
    return one_line(found[1]) if found else ""


def first_comment(text: bytes) -> str:
    """Return the first line that says something in the comments that a text begins with."""
    for line in text[:2000].split(_NEW_LINE):
        marked = line.strip(_BLANK)
        if marked.startswith(_COMMENTS) and not marked.startswith(_NO_COMMENTS):
            said = one_line(marked.partition(b"*/")[0]).strip(_COMMENT_MARKS)
            if any(character.isalnum() for character in said):
                return said
        elif marked and not marked.startswith(_NO_COMMENTS):
            return ""
    return ""


def _nested(items: list[Item]) -> list[Item]:
    outermost: list[Item] = []
    open_items: list[Item] = []
    for item in items:
        while open_items and open_items[-1].end_byte <= item.start_byte:
            open_items.pop()
        (open_items[-1].items if open_items else outermost).append(item)
        open_items.append(item)
    return outermost
