"""A text as words with counts: all that training a vocabulary needs to know of it.

Counting in three steps makes it fast: a text is cut at white space, the
distinct strings are normalised and cut at white space again (Chinese falls
apart there), and the distinct results are cut into words. Memory is bounded
whatever the text: rare words give way when there are too many.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate

WORD_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}[\p{L}\p{M}\x{200c}\x{200d}]*| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""A word of byte-level BPE, the space before it included: as in GPT-2, but marks and joiners stay with the letter
before them, since they are vowels in Hindi, Burmese and Khmer."""

LONGEST_WORD = 100
"""Characters. Longer ones (encoded data, genes) teach nothing: WordPiece makes them [UNK] in any case."""

MOST_CHARACTERS = 5_000_000
"""Characters in the table of words. 100 MB of English fill half of it."""

COVERAGE = 0.9999
"""Share of the text whose characters become pieces. The rest is spread over thousands of symbols."""

NEEDED_COVERAGE = 0.995
"""Share of the text whose characters must become pieces: with less, whole words are unknown."""

_MOST_STRINGS = 400_000
_MOST_HELD_CHARACTERS = 32_000_000
"""Distinct strings, and text behind them, that are counted before they are cut into words."""

_LONGEST_STRING = 1_000
"""Characters of a string without white space that are normalised at once."""

_FED_CHARACTERS = 1 << 16
_MOST_FED_WORDS = 100_000_000


def count_words(
    texts: Iterable[str], normalise: Callable[[str], str], cut: Callable[[str], Iterable[str]]
) -> dict[str, int]:
    """Count the words of a text.

    Args:
        texts: Read once.
        normalise: Gives a string as the tokenizer sees it.
        cut: Gives the words of a normalised string without white space.

    Returns:
        Words and how often each was seen; the most frequent that fit into
        `MOST_CHARACTERS`, of equally frequent ones those seen first.
    """
    words: Counter[str] = Counter()
    strings: Counter[str] = Counter()
    held = 0
    for text in texts:
        strings.update(text.split())
        held += len(text)
        if len(strings) >= _MOST_STRINGS or held >= _MOST_HELD_CHARACTERS:
            words.update(_words(strings, normalise, cut))
            words, strings, held = _most_frequent(words), Counter(), 0
    words.update(_words(strings, normalise, cut))
    return _most_frequent(words)


def _words(
    strings: Mapping[str, int], normalise: Callable[[str], str], cut: Callable[[str], Iterable[str]]
) -> Counter[str]:
    """Normalise strings and cut them into words."""
    normalised: Counter[str] = Counter()
    for string, count in strings.items():
        for start in range(0, len(string), _LONGEST_STRING):
            for part in normalise(string[start : start + _LONGEST_STRING]).split():
                normalised[part] += count
    words: Counter[str] = Counter()
    for part, count in normalised.items():
        for word in cut(part):
            words[word] += count
    return words


def _most_frequent(words: Counter[str]) -> Counter[str]:
    """The most frequent words that fit into the table."""
    if sum(map(len, words)) <= MOST_CHARACTERS:
        return words
    ordered = words.most_common()  # stable: first seen, first
    sizes = accumulate(len(word) for word, _ in ordered)
    return Counter({word: count for (word, count), size in zip(ordered, sizes, strict=True) if size <= MOST_CHARACTERS})


def character_pieces(words: Mapping[str, int]) -> list[tuple[str, float]]:
    """The single characters that WordPiece builds on.

    Returns:
        Most frequent character first: "x" for each, and "##x" for each that was
        seen inside a word. With each piece comes the share of the text that the
        characters before its own make up: what is covered without it.
    """
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    for word, count in words.items():
        for character in word:
            counts[character] += count
        inside.update(word[1:])
    total, covered = counts.total(), 0
    pieces = []
    for character in sorted(counts, key=lambda each: (-counts[each], each)):
        pieces.append((character, covered / total))
        if character in inside:
            pieces.append((f"##{character}", covered / total))
        covered += counts[character]
    return pieces


def spelt_with(words: Mapping[str, int], pieces: Iterable[str]) -> dict[str, int]:
    """The words that can be spelt with the given character pieces; the others are [UNK]."""
    pieces = set(pieces)
    first = {piece for piece in pieces if len(piece) == 1}
    inside = {piece[2:] for piece in pieces if len(piece) == 3}
    return {word: count for word, count in words.items() if word[0] in first and inside.issuperset(word[1:])}


def as_text(words: Mapping[str, int]) -> Iterator[str]:
    """A text in which each word stands as often as it was counted, in blocks of about 64 KB.

    Counts of very large texts are scaled down: the library counts pairs in 31 bits.
    """
    scale = 1 + sum(words.values()) // _MOST_FED_WORDS
    block: list[str] = []
    size = 0
    for word, count in words.items():
        left = -(-count // scale)
        while left:
            now = min(left, 1 + _FED_CHARACTERS // len(word))
            block.append(f"{word} " * now)
            size += now * (len(word) + 1)
            left -= now
            if size >= _FED_CHARACTERS:
                yield "".join(block)
                block, size = [], 0
    if block:
        yield "".join(block)
