"""Command lines in what somebody types, for the audit (spec/system.md 4)."""

from enum import Enum, auto

MAX_LINE_BYTES = 4096

_ESCAPE, _BELL = 0x1B, 0x07
_ENTER = frozenset(b"\r\n")
_ERASE = frozenset(b"\x7f\x08")
_CSI, _OSC, _BACKSLASH = ord("["), ord("]"), ord("\\")
_CSI_END = range(0x40, 0x7F)
_PRINTABLE = 0x20


class _State(Enum):
    TEXT = auto()
    ESCAPE = auto()
    CSI = auto()
    OSC = auto()
    OSC_ESCAPE = auto()


class Keystrokes:
    """The line so far. What a line editor makes of keys is not known: no history, no cursor."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._state = _State.TEXT

    def type(self, data: bytes) -> list[str]:
        """Take keys.

        Args:
            data: as they come.

        Returns:
            The lines that were entered, trimmed; empty ones do not count.
        """
        lines = []
        for byte in data:
            if self._state is not _State.TEXT:
                self._state = _after(self._state, byte)
            elif byte == _ESCAPE:
                self._state = _State.ESCAPE
            elif byte in _ENTER:
                lines.append(self._enter())
            elif byte in _ERASE:
                del self._line[-1:]
            elif byte >= _PRINTABLE and len(self._line) < MAX_LINE_BYTES:
                self._line.append(byte)
        return [line for line in lines if line]

    def _enter(self) -> str:
        line = self._line.decode("utf-8", "replace").strip()
        self._line.clear()
        return line


def _after(state: _State, byte: int) -> _State:
    """Where an escape sequence stands after one more byte (ECMA-48)."""
    match state:
        case _State.ESCAPE:
            return {_CSI: _State.CSI, _OSC: _State.OSC}.get(byte, _State.TEXT)
        case _State.CSI:
            return _State.TEXT if byte in _CSI_END else _State.CSI
        case _State.OSC if byte == _ESCAPE:
            return _State.OSC_ESCAPE
        case _State.OSC:
            return _State.TEXT if byte == _BELL else _State.OSC
        case _:
            return _State.TEXT if byte == _BACKSLASH else _State.OSC
