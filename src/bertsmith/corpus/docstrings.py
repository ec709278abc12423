"""What a Python source file says in English: its docstrings and longer comments.

The file is cut into strings, comments and code by one regular expression.
Parsing it whole takes five times as long, and fails on another Python's syntax.
"""

import ast
import re
import warnings
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""(?P<code> (?: [^#"']++
                    | "(?!"")[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"
                    | '(?!\'\')[^'\\\n]*+(?:\\.[^'\\\n]*+)*+' )*+ )
    (?: (?P<comment> \#[^\n]*+ )
      | (?P<long> \"{3}[^"\\]*+(?:(?:\\.|"(?!""))[^"\\]*+)*+"{3}
                | '{3}[^'\\]*+(?:(?:\\.|'(?!\'\'))[^'\\]*+)*+'{3} )
      | ["'] | \Z )""",
    re.VERBOSE | re.DOTALL,
)
"""Code up to and with the next comment, triple-quoted string, quote without a partner, or the end."""

_DOCUMENTING_CALLS = ("add_docstr", "add_newdoc")
_MIN_COMMENT_LINES = 2
_PREFIX = re.compile(r"\b[a-zA-Z]{1,2}\Z")


def english_of(source: str) -> list[str]:
    """The docstrings and comments of a module, in order.

    A docstring is a triple-quoted string that follows a colon or begins the
    file, or one given to a function written in C (`add_docstr`, `add_newdoc`).
    A comment counts if it is two or more lines long.

    Args:
        source: Python source, of any version.

    Returns:
        Texts as written, with their line ends and indentation.
    """
    if '"""' not in source and "'''" not in source and "#" not in source:
        return []
    found: list[str] = []
    comment: list[str] = []
    before = ":"  # the last code before a string; the start of a file is like a colon
    in_call = False
    for token in _TOKEN.finditer(source):
        code = token["code"]
        prefix = _PREFIX.search(code, max(0, len(code) - 3)) if token["long"] else None
        code = code[: prefix.start()] if prefix else code
        has_code = bool(code) and not code.isspace()
        if has_code:
            before = code.rstrip()[-1]
            in_call = any(call in code for call in _DOCUMENTING_CALLS) or (in_call and ")" not in code)
        own_line = not code.rpartition("\n")[2].strip() and ("\n" in code or not token.start())
        if has_code or not token["comment"] or code.count("\n") > 1:
            if len(comment) >= _MIN_COMMENT_LINES:
                found.append("\n".join(comment))
            comment = []
        if token["comment"]:
            comment += [token["comment"].lstrip("#")] if own_line else []
        elif token["long"]:
            if in_call or (before == ":" and own_line):
                found += _value(prefix[0].lower() if prefix else "", token["long"])
            before = '"'
    if len(comment) >= _MIN_COMMENT_LINES:
        found.append("\n".join(comment))
    return found


def _value(prefix: str, literal: str) -> Iterator[str]:
    """The text of a triple-quoted string, if it is one."""
    if "b" in prefix or "f" in prefix:
        return
    if "r" in prefix or "\\" not in literal:
        yield literal[3:-3]
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as an invalid escape in somebody's docstring
        try:
            yield ast.literal_eval(literal)
        except (SyntaxError, ValueError):
            yield literal[3:-3]
