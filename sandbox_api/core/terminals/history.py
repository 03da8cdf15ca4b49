"""The last output of a terminal. Each byte has a number, its offset since the shell began."""

MAX_BYTES = 256 << 10
REPLAY_BYTES = 100 << 10
LINE_SEARCH_BYTES = 256

_CONTINUATION = range(0x80, 0xC0)  # bytes of UTF-8 that begin no character


class History:
    """Bytes from offset `start` to offset `end`; older ones are forgotten.

    Args:
        max_bytes: how much is kept.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()
        self.start = 0

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.start + len(self._data)

    def append(self, data: bytes) -> None:
        """Add output; what is over the limit goes from the front."""
        self._data += data
        over = len(self._data) - self._max_bytes
        if over > 0:
            del self._data[:over]
            self.start += over

    def read(self, offset: int, most: int) -> bytes:
        """Up to `most` bytes from an offset that is kept."""
        begin = offset - self.start
        return bytes(self._data[begin : begin + most])

    def begin(self, most: int = REPLAY_BYTES) -> int:
        """Where to begin a replay of the last `most` bytes.

        What is cut off ends with a line if one ends near, else with a character.
        """
        begin = max(len(self._data) - most, 0)
        if begin == 0 and self.start == 0:
            return 0
        newline = self._data.find(b"\n", begin, begin + LINE_SEARCH_BYTES)
        if newline >= 0:
            return self.start + newline + 1
        while begin < len(self._data) and self._data[begin] in _CONTINUATION:
            begin += 1
        return self.start + begin
