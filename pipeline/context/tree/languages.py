"""The languages that have definitions, each a tree-sitter grammar and a query for it.

In a query, @class and @function are definitions, @name and @body lie in them, and @lead is what stands above
a definition on lines of its own and belongs to it: comments, decorators, attributes.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import version

import tree_sitter

_PYTHON = """
(class_definition name: (_) @name body: (_) @body) @class
(function_definition name: (_) @name body: (_) @body) @function
[(decorator) (comment)] @lead
"""
_JAVASCRIPT = """
(class_declaration name: (_) @name body: (_) @body) @class
(function_declaration name: (_) @name body: (_) @body) @function
(generator_function_declaration name: (_) @name body: (_) @body) @function
(method_definition name: (_) @name body: (_) @body) @function
([(lexical_declaration (variable_declarator name: (identifier) @name
    value: [(arrow_function body: (_) @body) (function_expression body: (_) @body)]))
  (variable_declaration (variable_declarator name: (identifier) @name
    value: [(arrow_function body: (_) @body) (function_expression body: (_) @body)]))]) @function
(expression_statement (assignment_expression left: [(identifier) (member_expression)] @name
    right: [(arrow_function body: (_) @body) (function_expression body: (_) @body)])) @function
[(decorator) (comment)] @lead
"""
_FIELDS = {
    "javascript": "(field_definition property: (_) @name value: (arrow_function body: (_) @body)) @function",
    "typescript": """
(public_field_definition name: (_) @name value: (arrow_function body: (_) @body)) @function
""",
}
_TYPESCRIPT = """
(abstract_class_declaration name: (_) @name body: (_) @body) @class
(interface_declaration name: (_) @name body: (_) @body) @class
(enum_declaration name: (_) @name body: (_) @body) @class
(internal_module name: (_) @name body: (_) @body) @class
"""
_GO = """
(function_declaration name: (_) @name body: (_) @body) @function
(method_declaration receiver: (_) @owner name: (_) @name body: (_) @body) @function
(type_declaration . (type_spec name: (_) @name type: [(struct_type) (interface_type)] @body) .) @class
(comment) @lead
"""
_JAVA = """
(class_declaration name: (_) @name body: (_) @body) @class
(interface_declaration name: (_) @name body: (_) @body) @class
(annotation_type_declaration name: (_) @name body: (_) @body) @class
(enum_declaration name: (_) @name body: (_) @body) @class
(record_declaration name: (_) @name body: (_) @body) @class
(method_declaration name: (_) @name body: (_) @body) @function
(constructor_declaration name: (_) @name body: (_) @body) @function
(compact_constructor_declaration name: (_) @name body: (_) @body) @function
[(line_comment) (block_comment)] @lead
"""
_RUST = """
(struct_item name: (_) @name body: (_) @body) @class
(enum_item name: (_) @name body: (_) @body) @class
(union_item name: (_) @name body: (_) @body) @class
(trait_item name: (_) @name body: (_) @body) @class
(impl_item type: (_) @name body: (_) @body) @class
(mod_item name: (_) @name body: (_) @body) @class
(function_item name: (_) @name body: (_) @body) @function
(macro_definition name: (_) @name) @function
[(line_comment) (block_comment) (attribute_item)] @lead
"""
_C = """
(struct_specifier name: (_) @name body: (_) @body) @class
(union_specifier name: (_) @name body: (_) @body) @class
(enum_specifier name: (_) @name body: (_) @body) @class
(type_definition type: [(struct_specifier body: (_) @body) (union_specifier body: (_) @body)
    (enum_specifier body: (_) @body)] declarator: (type_identifier) @name) @class
(function_definition declarator: (_) @name body: (compound_statement) @body) @function
(comment) @lead
"""
_CPP = f"""
{_C}
(class_specifier name: (_) @name body: (_) @body) @class
(namespace_definition name: (_) @name body: (_) @body) @class
(template_declaration (class_specifier name: (_) @name body: (_) @body)) @class
(template_declaration (struct_specifier name: (_) @name body: (_) @body)) @class
(template_declaration (function_definition declarator: (_) @name body: (compound_statement) @body)) @function
"""


@dataclass(frozen=True)
class Language:
    """A grammar as its wheel has it, and where its definitions are."""

    name: str
    module: str
    query_text: str
    function: str = "language"

    @cached_property
    def edition(self) -> str:
        """Name and version of all that decides what is found: part of a cache's key."""
        wheels = (self.module.replace("_", "-"), "tree-sitter")
        return "-".join((self.name, *map(version, wheels)))

    @cached_property
    def parser(self) -> tree_sitter.Parser:
        """The parser; one for a process, as it holds no state between two files."""
        return tree_sitter.Parser(self._grammar)

    @cached_property
    def query(self) -> tree_sitter.Query:
        """The query for definitions and what leads them."""
        return tree_sitter.Query(self._grammar, self.query_text)

    @cached_property
    def _grammar(self) -> tree_sitter.Language:
        language: Callable[[], object] = getattr(import_module(self.module), self.function)
        return tree_sitter.Language(language())


_TS_QUERY = _JAVASCRIPT + _FIELDS["typescript"] + _TYPESCRIPT
_LANGUAGES = {
    "py pyi pyw": Language("python", "tree_sitter_python", _PYTHON),
    "js mjs cjs jsx": Language("javascript", "tree_sitter_javascript", _JAVASCRIPT + _FIELDS["javascript"]),
    "ts mts cts": Language("typescript", "tree_sitter_typescript", _TS_QUERY, "language_typescript"),
    "tsx": Language("tsx", "tree_sitter_typescript", _TS_QUERY, "language_tsx"),
    "go": Language("go", "tree_sitter_go", _GO),
    "java": Language("java", "tree_sitter_java", _JAVA),
    "rs": Language("rust", "tree_sitter_rust", _RUST),
    "c": Language("c", "tree_sitter_c", _C),
    # A header may be of either: the C++ grammar reads nearly all of C.
    "cc cpp cxx c++ h hh hpp hxx h++ cu cuh": Language("cpp", "tree_sitter_cpp", _CPP),
}


@cache
def language_of_suffix(suffix: str) -> Language | None:
    """Return the language of files with a suffix such as ".py"; None where there is no grammar for it."""
    wanted = suffix.lower().removeprefix(".")
    return next((one for suffixes, one in _LANGUAGES.items() if wanted in suffixes.split()), None)


def language_of(path: str) -> Language | None:
    """Return the language that a file's name tells."""
    return language_of_suffix(posixpath.splitext(path)[1])
