"""Sockets as the kernel lists them, and whose they are."""

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_api.core import ports
from sandbox_api.core.ports import (
    OwnedSocket,
    Socket,
    read_sockets,
    socket_inodes,
    sockets_of,
)

Open = Callable[..., socket.socket]

IPV6 = socket.has_dualstack_ipv6()


@pytest.fixture
def open_socket() -> Iterator[Open]:
    """`open_socket("127.0.0.1", 0, kind=SOCK_DGRAM)`: bound; a TCP one listens."""
    with ExitStack() as stack:

        def open_one(
            address: str, port: int = 0, kind: int = socket.SOCK_STREAM, *, only: bool = False
        ) -> socket.socket:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            one = stack.enter_context(socket.socket(family, kind))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
            one.bind((address, port))
            if kind == socket.SOCK_STREAM:
                one.listen()
            return one

        yield open_one


def own(one: socket.socket) -> list[OwnedSocket]:
    """What is told of this process at the port of a socket."""
    port = one.getsockname()[1]
    told = sockets_of([(os.getpid(), "me")])
    return [owned for owned in told if owned.socket.local_port == port]


@pytest.mark.parametrize(
    ("address", "shown", "loopback"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.9.9.9", "127.9.9.9", True),
        ("0.0.0.0", "0.0.0.0", False),
        ("::1", "::1", True),
        ("::", "*", False),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("::ffff:0.0.0.0", "0.0.0.0", False),
    ],
)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_an_open_socket(
    open_socket: Open, address: str, shown: str, loopback: bool, kind: int
) -> None:
    """Both protocols and both families; only a loopback one cannot be reached from outside."""
    if ":" in address and not IPV6:
        pytest.skip("no IPv6 here")
    one = open_socket(address, kind=kind)
    (owned,) = own(one)
    state = "LISTEN" if kind == socket.SOCK_STREAM else "UNCONN"
    protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
    expected = (protocol, shown, one.getsockname()[1], "", 0, state)
    assert owned.socket[:-1] == expected
    assert (owned.pid, owned.process_name) == (os.getpid(), "me")
    assert (owned.socket.open, owned.socket.loopback) == (True, loopback)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_connected_socket_is_not_open(open_socket: Open, kind: int) -> None:
    """An outgoing connection's port is nobody's to connect to; its peer is told."""
    target = open_socket("127.0.0.1", kind=kind)
    with socket.socket(socket.AF_INET, kind) as one:
        one.connect(target.getsockname())
        (owned,) = own(one)
    assert not owned.socket.open
    assert owned.socket.state == "ESTAB"
    assert (owned.socket.remote_addr, owned.socket.remote_port) == target.getsockname()


def test_the_listener_goes_before_its_connections(open_socket: Open) -> None:
    """An accepted connection has the listener's port as well, and is listed before it."""
    listener = open_socket("127.0.0.1")
    with (
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockname() == listener.getsockname()
        (owned,) = own(listener)
    assert owned.socket.state == "LISTEN"


def test_of_two_listeners_the_one_that_others_reach_is_told(open_socket: Open) -> None:
    """Loopback and all addresses at one port: the port can be reached."""
    first = open_socket("127.0.0.1")
    open_socket("0.0.0.0", first.getsockname()[1])
    (owned,) = own(first)
    assert owned.socket.local_addr == "0.0.0.0"


def test_tcp_and_udp_of_one_port_are_two(open_socket: Open) -> None:
    """A port is a port of a protocol."""
    tcp = open_socket("127.0.0.1")
    open_socket("127.0.0.1", tcp.getsockname()[1], kind=socket.SOCK_DGRAM)
    assert [owned.socket.protocol for owned in own(tcp)] == ["tcp", "udp"]


def test_a_socket_of_two_processes_is_told_of_the_first(open_socket: Open) -> None:
    """A forked server shares its listener with its workers."""
    one = open_socket("127.0.0.1")
    script = "import sys; print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        pass_fds=[one.fileno()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"up\n"
        port = one.getsockname()[1]
        told = sockets_of([(worker.pid, "worker"), (os.getpid(), "me")])
        both = [owned for owned in told if owned.socket.local_port == port]
        alone = sockets_of([(worker.pid, "worker")])
        worker.communicate()
    assert [owned.pid for owned in both] == [min(os.getpid(), worker.pid)]
    assert [(owned.pid, owned.process_name) for owned in alone] == [(worker.pid, "worker")]


def test_another_process_has_none_of_ours(open_socket: Open) -> None:
    """Sockets go by exact pid, and a pid that nobody has is no error."""
    open_socket("127.0.0.1")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as stranger:
        assert sockets_of([(stranger.pid, "cat")]) == []
        stranger.communicate()
    assert sockets_of([(stranger.pid, "cat")]) == []
    assert socket_inodes(stranger.pid) == set()


PREFIX = """
import socket, subprocess
from sandbox_api.core.ports import holders, sockets_of

with socket.create_server(("127.0.0.1", 0)) as one:
    by_pid = {}
    while not any(int(f"{short}{digit}") in by_pid for short in by_pid for digit in range(10)):
        process = subprocess.Popen(
            ["cat"], stdin=subprocess.PIPE, pass_fds=[one.fileno()] if len(by_pid) > 5 else []
        )
        by_pid[process.pid] = process
    long = max(by_pid)
    short = long // 10
    inode = {owned.socket.inode for owned in sockets_of([(long, "long")])}
    print(sockets_of([(short, "short")]))
    print([owned.pid == long for owned in sockets_of([(short, "short"), (long, "long")])])
    print([*holders(inode, [short, long]).values()] == [long])
    for process in by_pid.values():
        process.communicate()
"""


def test_a_pid_that_begins_like_another() -> None:
    """1 has nothing of what 12 has (spec/system.md 17.9); in a namespace numbers are small."""
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", PREFIX],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(f"no namespace of processes here: {done.stderr.strip()}")
    assert done.stdout.splitlines() == ["[]", "[True]", "True"], done.stderr


def test_without_ipv6(monkeypatch: pytest.MonkeyPatch, open_socket: Open) -> None:
    """A kernel without it has no such tables."""
    one = open_socket("127.0.0.1")
    monkeypatch.setattr(ports, "_TABLES", (("tcp", "tcp"), ("none6", "tcp")))
    assert own(one)


def as_listed(packed: bytes, port: int) -> str:
    """An address as the kernel prints it: 32-bit words in its own byte order (proc(5))."""
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return f"{''.join(f'{word:08X}' for word in words)}:{port:04X}"


@given(
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(lambda address: address.packed),
    st.integers(0, 65535),
)
def test_any_address_is_read(packed: bytes, port: int) -> None:
    """What the kernel prints is the address that was packed, an IPv4 one within IPv6 unpacked."""
    address = ip_address(packed)
    expected = str(getattr(address, "ipv4_mapped", None) or address)
    if address == IPv6Address(0):
        expected = "*"
    assert ports._address(as_listed(packed, port)) == (expected, port)


@given(st.integers(0, 255))
def test_any_state_has_a_name(state: int) -> None:
    """Also one that a later kernel adds."""
    line = f" 0: 0100007F:1F90 00000000:0000 {state:02X} 0:0 00:0 0 0 0 4711 1"
    one = Socket("tcp", "127.0.0.1", 8080, "", 0, ports._STATES.get(state, "UNKNOWN"), 4711)
    assert ports._socket("tcp", line) == one
    assert one.open == (state in {7, 10})


def test_the_whole_table_is_read() -> None:
    """Every line of this machine's tables can be understood."""
    assert all(0 <= one.local_port <= 65535 for one in read_sockets())
