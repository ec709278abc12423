"""From blocks of bytes to lines of text: which encoding a file has, and what is done with broken bytes."""

import codecs
import encodings.aliases
import re
from collections.abc import Iterable, Iterator

from bertsmith.corpus.files import BLOCK_BYTES
from bertsmith.corpus.report import CorpusReport
from bertsmith.errors import UserError, suggestion

MAX_LINE_BYTES = 1 << 20
"""A longer line is handed on in pieces, cut at a sentence end or space where there is one."""

_SALVAGED_LINE_BYTES = 4_096
"""From a longer line only the broken bytes are dropped, not all of it."""

_WIDE_BOMS = (  # longest first: the mark of UTF-16 begins that of UTF-32
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_ONE_BYTE = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874"),
    *("iso8859_2", "iso8859_5", "iso8859_7", "koi8_r", "mac_roman", "cp437", "cp850", "cp866"),
)
_LEGACY = (*_ONE_BYTE, "gb18030", "big5", "shift_jis", "euc_jp", "euc_kr")
"""Encodings that a file may be found to have. Rarer ones have to be named: guesses among all are often wrong."""

_FEW_BYTES = 16
"""Fewer non-ASCII bytes than this say nothing about the language, so the most common encoding is taken."""

_SAMPLE_BYTES = 64_000
_MIN_UTF8_SHARE = 0.7
"""Of what is not ASCII; in Japanese or Chinese encodings up to 0.4 looks like UTF-8 by chance."""

_CONTROL_TO_SPACE = bytes(32 if (n < 32 and n not in b"\t\n\r") or n == 127 else n for n in range(256))
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SENTENCE_END = re.compile(rb"[.!?][\"')\]]*[ \t]|\xe3\x80\x82|\xef\xbc\x81|\xef\xbc\x9f")


def check_encoding(name: str) -> str:
    """Normalise the name of an encoding.

    Raises:
        UserError: Python knows no text encoding of this name.
    """
    if found := _text_encoding(name):
        return found
    known = {*encodings.aliases.aliases, *encodings.aliases.aliases.values(), "utf-8", "utf-16", "latin-1"}
    cure = "use a name such as utf-8, utf-16, cp1252 or shift_jis"
    hint = suggestion(name.lower(), filter(_text_encoding, known), otherwise=cure)
    raise UserError(f"encoding '{name}' is not known{hint}")


def _text_encoding(name: str) -> str | None:
    """What Python calls an encoding of texts; None if it knows none of this name."""
    try:
        "".encode(name)
        found = codecs.lookup(name).name
    except (LookupError, ValueError):
        return None
    return None if found in ("punycode", "idna") else found  # of single names, not of texts


def wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, told by their byte-order mark at the start of a file."""
    return next((name for mark, name in _WIDE_BOMS if head.startswith(mark)), None)


def lacks_mark(head: bytes, encoding: str | None) -> bool:
    """Whether a file lacks the byte-order mark without which nobody can read an encoding."""
    marks = tuple(mark for mark, name in _WIDE_BOMS if name == encoding)
    return bool(marks) and not head.startswith(marks)


def detect_encoding(head: bytes) -> str:
    """Find the encoding of a text from its first bytes that are not ASCII.

    UTF-8, also with some broken bytes, is told by its own structure; anything else is guessed by charset-normalizer.

    Args:
        head: The first part of the file with such bytes, the more the better.

    Returns:
        The name of a Python codec, "utf-8" for plain ASCII.
    """
    is_cut = len(head) >= BLOCK_BYTES  # then the last character may be in two
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(head, final=not is_cut)
    broken = text.count("\ufffd") - head.count("\ufffd".encode())
    whole = len(text) - len(text.encode("ascii", "ignore")) - broken
    return "utf-8" if whole >= _MIN_UTF8_SHARE * (whole + broken) else _guess_legacy(head)


def _guess_legacy(head: bytes) -> str:
    """The most probable of the encodings from before Unicode."""
    lines = [line for line in head.split(b"\n")[:-1] or [head] if not _is_utf8(line)] or [head]
    sample = b"\n".join(lines)[:_SAMPLE_BYTES]
    sample = sample[: sample.rfind(b"\n")] if len(sample) == _SAMPLE_BYTES and b"\n" in sample else sample
    if len(sample) - len(sample.decode("ascii", "ignore")) >= _FEW_BYTES:
        import charset_normalizer

        matches = charset_normalizer.from_bytes(sample, cp_isolation=list(_LEGACY))
        best = matches.best()
        common = next((match for match in matches if "cp1252" in match.could_be_from_charset), None)
        is_tie = best and common and common.chaos <= best.chaos and common.coherence >= best.coherence
        if best and not is_tie:
            return best.encoding
    return "cp1252"


def read_lines(
    blocks: Iterable[bytes],
    encoding: str | None,
    name: str,
    report: CorpusReport,
    *,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Iterator[tuple[int, str]]:
    """Decode a text and cut it into lines.

    Control characters become spaces. A line with bytes that are not valid is
    skipped and counted; from a long one only those bytes are left out.

    Args:
        blocks: The bytes of the file in pieces of any size.
        encoding: Name of a Python codec; None: detected where the first character comes that is not ASCII. In text
            that was found to have one byte a character, lines that are UTF-8 are read as such: files are joined
            from several.
        name: The file as shown to the user.
        report: Takes note of broken lines.
        max_line_bytes: A longer line is handed on in pieces.

    Yields:
        The number of the line counted from 1 and its text without the line end.
        Pieces of one very long line share its number.
    """
    guess = "utf-8"
    if encoding is not None and not _is_byte_wise(encoding):
        blocks, encoding = _as_utf8(blocks, encoding), "utf-8"
    number = 1
    mark = codecs.BOM_UTF8
    for ends_line, chunk in _whole_lines(blocks, max_line_bytes):
        chunk = chunk.removeprefix(mark).translate(_CONTROL_TO_SPACE)
        mark = b""
        if encoding is None and not chunk.isascii():
            guess = encoding = detect_encoding(chunk)
            report.note_encoding(guess)
        if guess in _ONE_BYTE and not chunk.isascii():
            chunk, encoding = b"\n".join(_line_as_utf8(line, guess) for line in chunk.split(b"\n")), "utf-8"
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        codec = encoding or guess
        try:
            lines: Iterable[str | None] = chunk.decode(codec).split("\n")
        except UnicodeDecodeError:
            pieces = enumerate(chunk.split(b"\n"), number)
            lines = (_decode_line(piece, codec, f"{name}:{at}", report) for at, piece in pieces)
        at = number
        for at, line in enumerate(lines, number):
            if line is not None:
                yield at, line
        number = at + ends_line


def _is_byte_wise(encoding: str) -> bool:
    """Whether the byte 10 is always a line end, so that lines can be cut before they are decoded."""
    stateful = encoding.startswith(("iso2022", "utf-7", "hz"))
    return not stateful and "\n\t A".encode(encoding) == b"\n\t A"


def _as_utf8(blocks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Translate to UTF-8, with a lone surrogate, which is no valid UTF-8, at each place that is broken."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    for block in blocks:
        yield decoder.decode(block).replace("\ufffd", "\ud800").encode("utf-8", "surrogatepass")
    yield decoder.decode(b"", final=True).replace("\ufffd", "\ud800").encode("utf-8", "surrogatepass")


def _line_as_utf8(line: bytes, encoding: str) -> bytes:
    """Translate a line, unless it is UTF-8 already: text with one byte a character hardly ever looks like that."""
    return line if _is_utf8(line) else b"".join(_as_utf8([line], encoding))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _whole_lines(blocks: Iterable[bytes], max_line_bytes: int) -> Iterator[tuple[bool, bytes]]:
    """Join blocks and cut them at line ends.

    Yields:
        True and whole lines without the last line end, or False and a piece of one long line.
    """
    held = bytearray()
    for block in blocks:
        end = block.rfind(b"\n")
        if end >= 0:
            held += block[:end]
            yield True, bytes(held).removesuffix(b"\r")
            held = bytearray(block[end + 1 :])
        else:
            held += block
        while len(held) > max_line_bytes:
            cut = _place_to_cut(held[:max_line_bytes])
            yield False, bytes(held[:cut])
            del held[:cut]
    if held:
        yield True, bytes(held).removesuffix(b"\r")


def _place_to_cut(line: bytes | bytearray) -> int:
    """Where to cut a line that is too long: at an old Macintosh line end, sentence end, space or character."""
    if b"\r" in line[:-1]:
        return line.rindex(b"\r", 0, -1) + 1
    tail = max(0, len(line) - _SALVAGED_LINE_BYTES)
    ends = [match.end() for match in _SENTENCE_END.finditer(line, tail)]
    if ends:
        return ends[-1]
    space = line.rfind(b" ")
    if space > 0:
        return space + 1
    cut = len(line)
    while cut > len(line) - 4 and line[cut - 1] >= 0x80:  # not inside a character of UTF-8
        cut -= 1
        if line[cut] >= 0xC0:
            break
    return cut


def _decode_line(line: bytes, encoding: str, place: str, report: CorpusReport) -> str | None:
    """Decode one line that may be broken; None if it is."""
    try:
        return line.decode(encoding)
    except UnicodeDecodeError:
        report.skip(place, f"bytes that are not valid {encoding}")
    return line.decode(encoding, "ignore") if len(line) > _SALVAGED_LINE_BYTES else None


def without_control(text: str) -> str:
    """Turn control characters into spaces, line ends and tabs apart."""
    return _CONTROL.sub(" ", text)
