#!/usr/bin/env python3
"""Measures the resident memory of a server a connection: idle ones, and such as have echoed a message.

For each server and each state the server is started afresh. Connections are opened one after the other, the handshake's
answer is awaited, and, where they echo, so is the echo of 1 KiB. What is told is how much VmRSS grows from the first
1,000 connections to the last of 15,000, divided by those in between: what does not depend on their number is left out.
The kernel's memory, socket buffers among it, is not in it.

    cargo build --release --workspace
    python3 benches/idle.py \\
        ringback='target/release/ringback --listen 127.0.0.1:{port} --workers 1 --engine epoll' \\
        tungstenite='target/release/tungstenite-echo --listen 127.0.0.1:{port}' \\
        raw='tcp:target/release/raw-tcp-echo --listen 127.0.0.1:{port}'

The servers get MIMALLOC_ALLOW_THP=0: a huge page would count as 2 MiB, whatever of it is used.
"""

import argparse
import base64
import json
import os
import pathlib
import re
import resource
import signal
import socket
import struct
import sys
import time

from harness import Failure, Server, ServerSpec, allow_files, describe_environment, print_environment

ECHO_SIZE = 1024
# How long the server may take for an answer.
ANSWER_DEADLINE_S = 20
# Memory is read when it has stayed the same for so long, and at the deadline at last.
SETTLED_S = 0.3
SETTLE_DEADLINE_S = 5
# Connections from one address: well below the number of ephemeral ports, of which some wait in TIME_WAIT.
CONNECTIONS_PER_ADDRESS = 5000
# What this process opens beside the connections.
FILES_ELSE = 50
# Not in the socket module: linux/in.h.
IP_BIND_ADDRESS_NO_PORT = 24


def main():
    # SIGTERM unwinds like Ctrl-C, so that the servers are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("idle: terminated"))
    options = parse_arguments()
    environment = describe_environment(options.server_core)
    print_environment(environment)
    rows = {spec.name: {state: measure(spec, state, options) for state in STATES} for spec in options.servers}
    print_table(rows, options)
    if options.json:
        report = {"environment": environment, "from": options.first, "to": options.last, "servers": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


# --- Measuring

# The states of a connection, and whether it echoes a message to get there.
STATES = {"idle": False, "echoed": True}


def measure(spec, state, options):
    """Bytes a connection, and of what they are the difference."""
    print(f"{spec.name}, {state}", file=sys.stderr)
    environment = {**os.environ, "MIMALLOC_ALLOW_THP": "0"}
    connections = []
    with Server(spec, options.server_core, environment) as server:
        try:
            resident = []
            for count in (options.first, options.last):
                while len(connections) < count:
                    connections.append(open_connection(server, len(connections), STATES[state], options.path))
                server.check_alive()
                resident.append(settled_resident(server.process.pid))
        except OSError as error:
            what = f"{spec.name}: connection {len(connections)}: {error}"
            raise Failure(f"{what}{server.last_words()}") from None
        finally:
            for connection in connections:
                connection.close()
    each = (resident[1] - resident[0]) / (options.last - options.first)
    return {"bytes_per_connection": each, "resident_first": resident[0], "resident_last": resident[1]}


def open_connection(server, index, echoes, path):
    """A connection in the state that is measured. Closing it resets it, so that no TIME_WAIT uses the ports up."""
    connection = socket.socket()
    try:
        connection.settimeout(ANSWER_DEADLINE_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        connection.bind((f"127.0.0.{2 + index // CONNECTIONS_PER_ADDRESS}", 0))
        connection.connect(("127.0.0.1", server.port))
        is_websocket = server.spec.scheme == "ws"
        if is_websocket:
            upgrade(connection, server.port, path)
        if echoes:
            echo(connection, is_websocket)
    except BaseException:
        connection.close()
        raise
    return connection


def upgrade(connection, port, path):
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += some(connection.recv(4096))
    if not answer.startswith(b"HTTP/1.1 101 "):
        raise ConnectionError(f"the handshake is answered with {answer[:60]}")


def echo(connection, is_websocket):
    """Sends a binary message, masked with zeros, or its payload alone, and awaits the same in one frame."""
    payload = os.urandom(ECHO_SIZE)
    header = b"\x82\x7e" + ECHO_SIZE.to_bytes(2, "big")
    masked = b"\x82\xfe" + ECHO_SIZE.to_bytes(2, "big") + bytes(4)
    connection.sendall(masked + payload if is_websocket else payload)
    expected = header + payload if is_websocket else payload
    answer = b""
    while len(answer) < len(expected):
        answer += some(connection.recv(len(expected) - len(answer)))
    if answer != expected:
        raise ConnectionError(f"the echo is wrong: {answer[:20]}…")


def some(received):
    if not received:
        raise ConnectionError("the server has ended it")
    return received


def settled_resident(pid):
    """The resident memory of a process in bytes, when it no longer changes."""
    value, since = resident(pid), time.monotonic()
    deadline = since + SETTLE_DEADLINE_S
    while (now := time.monotonic()) < deadline and now - since < SETTLED_S:
        time.sleep(0.05)
        latest = resident(pid)
        if latest != value:
            value, since = latest, now
    return value


def resident(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE).group(1)) * 1024


# --- Telling


def print_table(rows, options):
    print(f"\n### Resident memory a connection, from {options.first:,} to {options.last:,}\n")
    print(f"| server | idle | after an echo of {ECHO_SIZE:,} bytes | in all, {options.last:,} idle |")
    print("|---|--:|--:|--:|")
    for name, row in rows.items():
        each = " | ".join(f"{row[state]['bytes_per_connection']:,.0f} B" for state in STATES)
        print(f"| {name} | {each} | {row['idle']['resident_last'] / (1 << 20):,.1f} MiB |")


# --- The command line


def parse_arguments():
    allowed = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("servers", metavar="NAME=[SCHEME:]COMMAND", nargs="+", type=ServerSpec.parse, help="as for compare.py")
    add("--first", metavar="N", type=int, default=1000,
        help="connections at which counting begins (default: %(default)s)")
    add("--last", metavar="N", type=int, default=15_000, help="connections in all (default: %(default)s)")
    add("--server-core", metavar="N", type=int, default=allowed[0], help="(default: %(default)s)")
    add("--path", default="/ws", help="the target of ws servers (default: %(default)s)")
    add("--json", metavar="FILE", type=pathlib.Path, help="write it there as well")
    options = parser.parse_args()
    if not 0 < options.first < options.last:
        parser.error("--first is positive and less than --last")
    allow_files()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if options.last + FILES_ELSE > files:
        parser.error(f"--last {options.last} does not fit into the limit of {files} open files (ulimit -Hn)")
    return options


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"idle: FAILED: {failure}")
    except KeyboardInterrupt:
        sys.exit("idle: interrupted")
