"""What serves in tests: the daemon, and a small server that listens where it is told, and stays."""

import os
import shlex
import socket
import sys
from typing import Final

# What starts the daemon that is tested: the source, or the file that SANDBOX_API_BIN names.
DAEMON: Final = (
    [os.environ["SANDBOX_API_BIN"]]
    if os.environ.get("SANDBOX_API_BIN")
    else [sys.executable, "-m", "sandbox_api"]
)

_PROGRAM = """
import socket, sys
held = []
for argument in sys.argv[1:]:
    kind, address, port = argument.split(",")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    one = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind((address, int(port)))
    if kind == "tcp":
        one.listen()
    held.append(one)
print("serving", flush=True)
while True:
    held[0].accept() if kind == "tcp" else held[0].recv(1)
"""


def serve(*ports: int, address: str = "0.0.0.0", kind: str = "tcp") -> str:
    """A command that listens on ports, says `serving`, and goes on until it is ended."""
    listens = [f"{kind},{address},{port}" for port in ports]
    return shlex.join([sys.executable, "-I", "-S", "-c", _PROGRAM, *listens])


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])
