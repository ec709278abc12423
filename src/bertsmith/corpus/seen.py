"""A set of hashes in little memory, for finding duplicates."""

import numpy as np
import numpy.typing as npt

_MAX_LOAD = 0.75
_FIRST_SLOTS = 1 << 12


class SeenHashes:
    """Remembers hashes in a hash table with open addressing.

    A hash takes 8 bytes, and a third to two thirds of the table are in use, so
    about 16 bytes an entry. Among 100 million different texts the chance that
    any is taken for another is 3 in 10,000. Looking one up in a sorted array
    takes two to three times as long, which shows where each line is a document.
    """

    def __init__(self) -> None:
        self._slots: npt.NDArray[np.uint64] = np.zeros(_FIRST_SLOTS, np.uint64)  # 0: free
        self._view = self._slots.data  # reads and writes single items much faster than the array
        self._used = 0

    def add(self, digest: bytes) -> bool:
        """Remember a hash.

        Args:
            digest: At least 8 random bytes.

        Returns:
            True if it is new.
        """
        value = int.from_bytes(digest[:8], "little") or 1
        if not _insert(self._view, value):
            return False
        self._used += 1
        if self._used > _MAX_LOAD * len(self._slots):
            self._grow()
        return True

    def _grow(self) -> None:
        """Move to a table of twice the size."""
        values = np.sort(self._slots[self._slots != 0])
        self._slots = np.zeros(2 * len(self._slots), np.uint64)
        self._view = self._slots.data
        home = values >> np.uint64(_shift(len(self._slots)))
        order = np.arange(len(values), dtype=np.uint64)
        with np.errstate(over="ignore"):
            slot = np.maximum.accumulate(home.astype(np.int64) - order.astype(np.int64)) + order.astype(np.int64)
        inside = slot < len(self._slots)
        self._slots[slot[inside]] = values[inside]
        for value in values[~inside].tolist():  # the last few may run over the end, and go on at the start
            _insert(self._view, value)


def _shift(slots: int) -> int:
    """Bits to drop from a 64-bit hash so that its first bits name one of `slots`, a power of two."""
    return 65 - slots.bit_length()


def _insert(slots: memoryview, value: int) -> bool:
    """Put a value into the first free slot at or after its home; False if it is there already."""
    at = value >> _shift(len(slots))
    while (found := slots[at]) != 0:
        if found == value:
            return False
        at = (at + 1) % len(slots)
    slots[at] = value
    return True
