"""A set of hashes in little memory, for finding duplicates."""

from bisect import bisect_left

import numpy as np
import numpy.typing as npt

_RECENT = 1 << 12
_RECENT_SHARE = 16
"""Hashes that may wait to be sorted in: so many, or one in so many of those that are, if these are more."""


class SeenHashes:
    """Remembers hashes: most in a sorted array, the last ones in a set.

    A hash takes 8 bytes in the array and about 80 in the set, so about 13 bytes on average. Among 100 million different
    texts the chance that any is taken for another is 3 in 10,000.
    """

    def __init__(self) -> None:
        self._sorted: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self._view = self._sorted.data  # reads single items much faster than the array
        self._recent: set[int] = set()

    def add(self, digest: bytes) -> bool:
        """Remember a hash.

        Args:
            digest: At least 8 random bytes.

        Returns:
            True if it is new.
        """
        value = int.from_bytes(digest[:8], "little")
        if value in self._recent:
            return False
        place = bisect_left(self._view, value)
        if place < len(self._view) and self._view[place] == value:
            return False
        self._recent.add(value)
        if len(self._recent) > max(_RECENT, len(self._view) // _RECENT_SHARE):
            self._sort_in()
        return True

    def _sort_in(self) -> None:
        """Move the last ones to the array."""
        recent = np.fromiter(self._recent, np.uint64, len(self._recent))
        recent.sort()
        self._sorted = np.concatenate([self._sorted, recent])
        self._sorted.sort(kind="stable")  # merges what is sorted in linear time
        self._view = self._sorted.data
        self._recent.clear()
