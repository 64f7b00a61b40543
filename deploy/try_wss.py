"""Echoes through wss://localhost:PORT/ws and says what worked; a part of ./try-nginx.sh.

Usage: python3 try_wss.py PORT CERTIFICATE

A WebSocket client of the standard library's parts: it sends a frame at once, whatever its length, and takes an echo
in as many fragments as it comes in.
"""

import base64
import hashlib
import os
import socket
import ssl
import struct
import sys

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def main(port, certificate):
    client = connect(int(port), certificate)
    print(f"{client.version()}: 101")
    for opcode, payload in (
        (TEXT, "Grüße, κόσμε".encode()),
        (TEXT, b""),
        (BINARY, os.urandom(64 * 1024)),
        (BINARY, os.urandom(1024 * 1024)),
    ):
        send(client, opcode, payload)
        assert receive(client) == (opcode, payload), f"the echo of {len(payload)} bytes is another"
        print(f"echo of {len(payload)} bytes: equal")
    send(client, PING, b"still there?")
    assert receive(client) == (PONG, b"still there?")
    print("ping: answered")
    close = struct.pack(">H", 1000) + b"done"
    send(client, CLOSE, close)
    assert receive(client) == (CLOSE, close)
    assert client.recv(1) == b"", "the connection did not end after the closing handshake"
    print("close: answered, then the end")


def connect(port, certificate):
    tls = ssl.create_default_context(cafile=certificate)
    client = tls.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=20), server_hostname="localhost")
    key = base64.b64encode(os.urandom(16)).decode()
    client.sendall(
        f"GET /ws HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += exactly(client, 1)
    accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
    assert head.startswith(b"HTTP/1.1 101 "), head
    assert b"sec-websocket-accept: " + accept.lower() in head.lower(), head
    return client


def send(client, opcode, payload):
    mask = os.urandom(4)
    length = len(payload)
    if length < 126:
        header = struct.pack(">BB", 0x80 | opcode, 0x80 | length)
    elif length < 1 << 16:
        header = struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, length)
    else:
        header = struct.pack(">BBQ", 0x80 | opcode, 0x80 | 127, length)
    key = int.from_bytes(mask * (length // 4 + 1), "big") >> 8 * (4 - length % 4)
    masked = (int.from_bytes(payload, "big") ^ key).to_bytes(length, "big")
    client.sendall(header + mask + masked)


def receive(client):
    """The next message or control frame, as opcode and payload."""
    opcode, message = None, b""
    while True:
        first, length = exactly(client, 2)
        assert length < 128, "a server does not mask"
        if length >= 126:
            size = 2 if length == 126 else 8
            length = int.from_bytes(exactly(client, size), "big")
        opcode = first & 15 or opcode
        message += exactly(client, length)
        if first & 128:
            return opcode, message


def exactly(client, count):
    parts = []
    while count > 0:
        part = client.recv(count)
        assert part, "the connection ended early"
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    main(*sys.argv[1:])
