"""Reads Bicep files: pycep-parser for syntax and structure, a small scanner for the names that expressions use.

pycep does not tell a name from a string ('mode' and mode are both "mode"), so references come from the source text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pycep import BicepParser

_PARSER = BicepParser()


class BicepError(Exception):
    """A file that pycep cannot read."""


@dataclass
class Bicep:
    """One file."""

    path: Path
    text: str
    code: str
    params: dict[str, dict[str, Any]]
    variables: dict[str, Any]
    resources: dict[str, dict[str, Any]]
    modules: dict[str, dict[str, Any]]
    outputs: dict[str, dict[str, Any]]
    bodies: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def required(self) -> set[str]:
        """Parameters that have no default and may not be left out."""
        return {n for n, p in self.params.items() if p["default"] is None and not self.optional(n)}

    def optional(self, name: str) -> bool:
        """Whether the parameter's type ends with a question mark."""
        return re.search(rf"^param\s+{name}\s+\S+\?", self.code, re.M) is not None

    def decorator(self, name: str, kind: str) -> Any:
        """Argument of a parameter's decorator; True for one without argument, None where it is absent."""
        for decorator in self.params[name]["decorators"]:
            if decorator["type"] == kind:
                return decorator.get("argument", True)
        return None

    @property
    def secure(self) -> set[str]:
        """Parameters marked @secure()."""
        return {n for n in self.params if self.decorator(n, "secure")}


def code_of(text: str) -> str:
    """The text without comments and without what stands in strings, interpolated expressions excepted."""
    out: list[str] = []
    i, depth = 0, []  # depth: brace counts of the open interpolations
    in_string = False
    while i < len(text):
        two, char = text[i : i + 2], text[i]
        if in_string:
            if char == "\\":
                i += 2
            elif two == "${":
                out.append(" ")
                depth.append(0)
                in_string = False
                i += 2
            elif char == "'":
                out.append("'")
                in_string = False
                i += 1
            else:
                i += 1
        elif two == "//" or (char == "#" and text[text.rfind("\n", 0, i) + 1 : i].strip() == ""):
            i = text.find("\n", i) if "\n" in text[i:] else len(text)
        elif two == "/*":
            i = text.index("*/", i) + 2
        elif char == "'":
            out.append("'")
            in_string = True
            i += 1
        elif char == "}" and depth and depth[-1] == 0:
            out.append(" ")
            depth.pop()
            in_string = True
            i += 1
        else:
            if depth and char in "{}":
                depth[-1] += 1 if char == "{" else -1
            out.append(char)
            i += 1
    return "".join(out)


_DECLARATION = re.compile(r"^(param|var|resource|module|output)\s+(\w+)", re.M)


def _bodies(code: str) -> dict[tuple[str, str], str]:
    marks = list(_DECLARATION.finditer(code))
    bodies = {}
    for mark, following in zip(marks, [*marks[1:], None]):
        end = following.start() if following else len(code)
        body = code[mark.end() : end]
        # Decorators of the next declaration are not ours.
        if following:
            body = re.sub(r"\n@[\s\S]*\Z", "\n", body)
        bodies[(mark[1], mark[2])] = body
    return bodies


def parse(text: str, path: Path = Path("snippet.bicep")) -> Bicep:
    """Parses one file's text."""
    try:
        tree = _PARSER.parse(text=text)
    except Exception as error:  # lark raises many kinds
        raise BicepError(f"{path}: pycep cannot parse it: {str(error).splitlines()[0]}") from error
    code = code_of(text)
    return Bicep(
        path=path,
        text=text,
        code=code,
        params=tree.get("parameters", {}),
        variables=tree.get("variables", {}),
        resources=tree.get("resources", {}),
        modules=tree.get("modules", {}),
        outputs=tree.get("outputs", {}),
        bodies=_bodies(code),
    )


def load(root: Path) -> dict[Path, Bicep]:
    """All files below a directory, by resolved path."""
    return {p.resolve(): parse(p.read_text("utf-8"), p.resolve()) for p in sorted(root.rglob("*.bicep"))}


def body_of(declaration: dict[str, Any]) -> dict[str, Any]:
    """The object of a resource or module, whether conditional or not."""
    config = declaration["config"]
    inner = config.get("config") if "condition" in config or "loop_type" in config else None
    return inner if isinstance(inner, dict) else config


_WORD = re.compile(r"(?<![\w.@'])([A-Za-z_]\w*)")
_SYNTAX = {"true", "false", "null", "if", "for", "in", "existing", "string", "int", "bool", "object", "array", "as"}


def names_in(code: str) -> set[str]:
    """Names that an expression uses; functions, keys and properties left out."""
    local = set(re.findall(r"\bfor\s+(\w+)\s+in\b", code))
    for pair in re.findall(r"\bfor\s+\((\w+)\s*,\s*(\w+)\)\s+in\b", code):
        local.update(pair)
    names = set()
    for match in _WORD.finditer(code):
        rest = code[match.end() :]
        if rest.startswith("(") or re.match(r":", rest) or match[1] in _SYNTAX or match[1] in local:
            continue
        names.add(match[1])
    return names
