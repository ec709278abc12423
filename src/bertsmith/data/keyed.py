"""Randomness without state: numbers that are a pure function of their key.

A generator that is advanced draw by draw makes a batch depend on everything
drawn before it. Here each number is a hash of (seed, epoch, example, ...), so
any batch can be made at once, by any worker, in any order, and again after a
restart. The mixing function is that of SplitMix64 (Steele, Lea and Flood,
"Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
"""

import hashlib
from enum import IntEnum

import numpy as np
import numpy.typing as npt

UInt64Array = npt.NDArray[np.uint64]


class Stream(IntEnum):
    """What a number is drawn for. Two purposes never share a key, so they are independent."""

    CUT = 1
    WINDOW = 2
    SENTENCE = 3
    PARTNER = 4
    NEGATIVE = 5
    SLOT = 6
    ROW = 7
    MASK = 8
    FATE = 9
    REPLACEMENT = 10
    DROPOUT = 11
    INITIAL = 12
    EXAMPLE = 13
    SPLIT = 14
    SPAN = 15
    ORDER = 16
    COUNTED = 17


def mix(value: UInt64Array) -> UInt64Array:
    """Scramble 64-bit numbers: a bijection in which each input bit changes half of the output bits."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def keyed_bits(*key: int | npt.NDArray[np.integer]) -> UInt64Array:
    """Random 64-bit numbers for the given key.

    Args:
        key: Integers, or integer arrays that broadcast against each other. Order matters.

    Returns:
        uint64, of the broadcast shape of the key (a 1-element array for plain integers).
    """
    bits = np.zeros(1, dtype=np.uint64)
    for part in key:
        bits = mix(bits ^ mix(np.asarray(part).astype(np.uint64)))
    return bits


def keyed_uniform(*key: int | npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Random numbers in [0, 1) for the given key, float64."""
    return (keyed_bits(*key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def keyed_seed(*key: int) -> int:
    """A seed in [0, 2^63) for a generator of another library."""
    return int(keyed_bits(*key)[0] >> np.uint64(1))


def text_hash(text: str) -> bytes:
    """16 bytes that identify a text: equal texts give equal bytes on every machine."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
