"""English prose out of docstrings: wrapped lines are joined, code and tables are left out."""

import re
from inspect import cleandoc

_UNDERLINE = re.compile(r"[-=~*^#+\"'.\s|]{3,}")
_DIRECTIVE = re.compile(r"\.\. +([\w-]+) *::(.*)")
_CODE_DIRECTIVES = ("code", "code-block", "math", "plot", "doctest", "testcode", "autosummary", "productionlist")
_ITEM = re.compile(r"[-*\u2022+] |\(?\d+[.)] |[`*]*[\w.]+[`*]*(?: ?\([^)]*\))? ?: |:\w+ \w+: ")
_PARAMETER = re.compile(r"[\w*, ]+ : \S.*")
"""A parameter and its type, as numpy sets them: the description below is a paragraph of its own."""

_ROLE = re.compile(r":[\w:+-]+:`[~!]?([^`<]+?)(?: *<[^`>]*>)?`")
_MIN_WORDS = 3
_MIN_WORD_SHARE = 0.6
_AROUND_WORDS = ".,;:!?()[]'\"`*_"


def prose(text: str) -> list[str]:
    """The paragraphs of a docstring, or of a text set the same way, that read like English.

    Lines of a paragraph are joined, list items and described parameters stay
    apart. Examples (`>>>`), literal blocks, formulas, underlines, headings of
    one or two words and lines that are mostly symbols are left out.

    Returns:
        Paragraphs without line ends; reStructuredText roles and quotes are undone.
    """
    paragraphs = [_plain(" ".join(lines)) for lines in _blocks(cleandoc(text).split("\n"))]
    return [paragraph for paragraph in paragraphs if _is_prose(paragraph)]


def _blocks(lines: list[str]) -> list[list[str]]:
    """Lines grouped into paragraphs, without examples and literal blocks."""
    blocks: list[list[str]] = [[]]
    first_indent = last_indent = 0
    code_indent: int | None = None  # everything deeper than this is code
    in_example = False
    for line in lines:
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if not stripped or _UNDERLINE.fullmatch(stripped):
            in_example = False
            blocks.append([])
            continue
        if code_indent is not None and indent <= code_indent:
            code_indent = None
        in_example = in_example or stripped.startswith(">>>")
        if in_example or code_indent is not None:
            continue
        if directive := _DIRECTIVE.match(stripped):
            code_indent = indent if directive[1] in _CODE_DIRECTIVES else None
            stripped = directive[2].strip() if code_indent is None else ""
            blocks.append([])
        elif stripped.endswith("::"):
            code_indent = indent
        steps_back = indent < last_indent and indent <= first_indent
        if not blocks[-1] or steps_back or _ITEM.match(stripped) or blocks[-1][-1].endswith(":"):
            blocks.append([])
            first_indent = indent
        if stripped:
            blocks[-1].append(stripped)
        if _PARAMETER.fullmatch(stripped):
            blocks.append([])
        last_indent = indent
    return [block for block in blocks if block]


def _plain(paragraph: str) -> str:
    """A paragraph without the marks of reStructuredText."""
    if "`" in paragraph:
        paragraph = _ROLE.sub(r"\1", paragraph).replace("``", "").replace("`", "")
    return f"{paragraph[:-1]}" if paragraph.endswith("::") else paragraph


def _is_prose(paragraph: str) -> bool:
    """Whether most words of a paragraph are words."""
    words = paragraph.split()
    plain = sum(word.strip(_AROUND_WORDS).isalpha() for word in words)
    return plain >= _MIN_WORDS and plain >= _MIN_WORD_SHARE * len(words)
