"""Sockets by process, from /proc alone: no tool of the image is ever called.

/proc/net lists sockets with their inode, /proc/[pid]/fd tells which process holds which inode
(proc(5)).
"""

import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple

from sandbox_api.errors import UnavailableError, os_text

WILDCARD = "*"
# Names as `ss` has them, which clients of the reference know.
_STATES = {
    1: "ESTAB",
    2: "SYN-SENT",
    3: "SYN-RECV",
    4: "FIN-WAIT-1",
    5: "FIN-WAIT-2",
    6: "TIME-WAIT",
    7: "UNCONN",
    8: "CLOSE-WAIT",
    9: "LAST-ACK",
    10: "LISTEN",
    11: "CLOSING",
}
_OPEN = frozenset({"LISTEN", "UNCONN"})
_TABLES = (("tcp", "tcp"), ("tcp6", "tcp"), ("udp", "udp"), ("udp6", "udp"))
_IPV4_CHARACTERS = 8
_FIELD_LOCAL, _FIELD_REMOTE, _FIELD_STATE, _FIELD_INODE = 1, 2, 3, 9


class Socket(NamedTuple):
    """One socket; `remote_addr` is empty and `remote_port` 0 where it is not connected."""

    protocol: str
    local_addr: str
    local_port: int
    remote_addr: str
    remote_port: int
    state: str
    inode: int

    @property
    def open(self) -> bool:
        """Whether others can reach it: it listens, or it is a UDP socket without a peer."""
        return self.state in _OPEN and not self.remote_port

    @property
    def loopback(self) -> bool:
        """Whether only this sandbox can reach it."""
        return is_loopback(self.local_addr)


class Place(NamedTuple):
    """Where something is open, in the order in which lists have it."""

    protocol: str
    port: int
    address: str

    @property
    def reachable(self) -> bool:
        """Whether it can be reached from outside of the sandbox."""
        return not is_loopback(self.address)


class OwnedSocket(NamedTuple):
    """A socket and who holds it."""

    pid: int
    process_name: str
    socket: Socket


def is_loopback(address: str) -> bool:
    """Whether only this sandbox can reach an address: 127.0.0.0/8, ::1; `*` is all addresses."""
    return address != WILDCARD and ip_address(address).is_loopback


def read_sockets() -> list[Socket]:
    """Every TCP and UDP socket of this network namespace.

    Raises:
        UnavailableError: the system is short of descriptors or memory.
    """
    return [one for table, protocol in _TABLES for one in _read_table(table, protocol)]


def socket_inodes(pid: int) -> set[int]:
    """The inodes of the sockets that a process holds; empty when it is gone or not ours to see."""
    inodes = set()
    directory = f"/proc/{pid}/fd"
    with suppress(OSError):
        for name in os.listdir(directory):
            with suppress(OSError):
                target = os.readlink(f"{directory}/{name}")
                if target.startswith("socket:["):
                    inodes.add(int(target[8:-1]))
    return inodes


def holders(inodes: Collection[int], pids: Iterable[int]) -> dict[int, int]:
    """Which process holds each socket; of several the one with the lowest number.

    Args:
        inodes: of the sockets; one whose holder is not ours to see is left out.
        pids: who may hold them. They are looked at only until all are found.
    """
    wanted, found = set(inodes), dict[int, int]()
    for pid in sorted(pids):
        if not wanted:
            break
        for inode in socket_inodes(pid) & wanted:
            found[inode] = pid
            wanted.remove(inode)
    return found


def sockets_of(processes: Iterable[tuple[int, str]]) -> list[OwnedSocket]:
    """The sockets of some processes: one for each protocol and local port, in that order.

    Of several at one port the one that listens is told, and of those the one that others reach.

    Args:
        processes: pid and name of each.
    """
    best: dict[tuple[str, int], OwnedSocket] = {}
    for found in _held(processes):
        key = (found.socket.protocol, found.socket.local_port)
        if key not in best or _rank(found) < _rank(best[key]):
            best[key] = found
    return [best[key] for key in sorted(best)]


def open_ports(processes: Iterable[tuple[int, str]]) -> dict[int, frozenset[int]]:
    """The ports that some processes have opened, each with the inodes of its sockets.

    Args:
        processes: pid and name of each.
    """
    found: dict[int, frozenset[int]] = {}
    for one in (owned.socket for owned in _held(processes) if owned.socket.open):
        found[one.local_port] = found.get(one.local_port, frozenset()) | {one.inode}
    return found


def open_places() -> dict[Place, frozenset[int]]:
    """Everything that is open in the sandbox: each place with the inodes of its sockets.

    Workers that share a port (SO_REUSEPORT) have a socket each at one place.
    """
    found: dict[Place, frozenset[int]] = {}
    for one in read_sockets():
        if one.open:
            place = Place(one.protocol, one.local_port, one.local_addr)
            found[place] = found.get(place, frozenset()) | {one.inode}
    return found


def _held(processes: Iterable[tuple[int, str]]) -> Iterator[OwnedSocket]:
    by_inode = {one.inode: one for one in read_sockets()}
    for pid, name in sorted(processes):
        for inode in socket_inodes(pid) & by_inode.keys():
            yield OwnedSocket(pid, name, by_inode[inode])


def explain_refusal(port: int) -> str:
    """Why nobody can connect to a TCP port on loopback, and what to do; reads /proc."""
    there = [one for one in read_sockets() if one.local_port == port and one.open]
    addresses = sorted({one.local_addr for one in there if one.protocol == "tcp"})
    if addresses:
        return (
            f"port {port} listens on {', '.join(addresses)} only; "
            "bind the app to 127.0.0.1, 0.0.0.0 or ::"
        )
    if there:
        return f"only UDP is open on port {port}; an app that speaks HTTP listens on TCP"
    return f"nothing listens on port {port}; start the app, or wait until it listens"


def _rank(owned: OwnedSocket) -> tuple[bool, bool, int, Socket]:
    one = owned.socket
    return not one.open, one.loopback, owned.pid, one


def _read_table(table: str, protocol: str) -> Iterator[Socket]:
    try:
        with open(f"/proc/net/{table}", encoding="ascii") as file:
            next(file, None)
            lines = file.readlines()
    except FileNotFoundError:  # no IPv6
        return
    except OSError as exc:  # no descriptors: not the same as no sockets
        raise UnavailableError(os_text("open", f"/proc/net/{table}", exc)) from exc
    for line in lines:
        yield _socket(protocol, line)


def _socket(protocol: str, line: str) -> Socket:
    fields = line.split()
    local_addr, local_port = _address(fields[_FIELD_LOCAL])
    remote_addr, remote_port = _address(fields[_FIELD_REMOTE])
    return Socket(
        protocol,
        local_addr,
        local_port,
        remote_addr if remote_port else "",
        remote_port,
        _STATES.get(int(fields[_FIELD_STATE], 16), "UNKNOWN"),
        int(fields[_FIELD_INODE]),
    )


def _address(text: str) -> tuple[str, int]:
    """`0100007F:1F90` as address and port; the kernel prints words in its own byte order."""
    digits, _, port = text.partition(":")
    words = struct.pack(f"={len(digits) // 8}I", *_words(digits))
    if len(digits) == _IPV4_CHARACTERS:
        return socket.inet_ntop(socket.AF_INET, words), int(port, 16)
    address = ip_address(words)
    mapped = getattr(address, "ipv4_mapped", None)
    if int(address) == 0:
        return WILDCARD, int(port, 16)
    return str(mapped or address), int(port, 16)


def _words(digits: str) -> Iterator[int]:
    return (int(digits[at : at + 8], 16) for at in range(0, len(digits), 8))
