#!/usr/bin/env python3
"""Tests of idle.py, with a server of a few lines that takes a known amount: `python3 benches/test_idle.py`."""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

IDLE = pathlib.Path(__file__).with_name("idle.py")

# Takes 64 KiB for a connection, and 32 KiB more when that echoes. It answers one message in one read.
SERVER = """
import os, pathlib, selectors, socket, sys
pathlib.Path(sys.argv[2], str(os.getpid())).touch()
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1000)
ready = selectors.DefaultSelector()
ready.register(listener, selectors.EVENT_READ, None)
while True:
    for key, _ in ready.select():
        if key.data is None:
            connection, _ = listener.accept()
            ready.register(connection, selectors.EVENT_READ, [b"x" * (64 << 10)])
            continue
        try:
            received = key.fileobj.recv(65536)
        except ConnectionError:
            received = b""
        if not received:
            ready.unregister(key.fileobj)
        elif received.startswith(b"GET /ws "):
            key.fileobj.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\n\\r\\n")
        else:
            key.data.append(b"y" * (32 << 10))
            framed = received[:1] == b"\\x82" and len(received) == 8 + 1024
            reply = b"\\x82\\x7e\\x04\\x00" + received[8:] if framed else received
            key.fileobj.sendall(reply[:-1] + b"!" if "--wrong" in sys.argv else reply)
"""


class Run(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.pids = self.directory / "pids"
        self.pids.mkdir()
        (self.directory / "server.py").write_text(SERVER)

    def run_idle(self, *flags, first=50, last=450):
        server = f"{sys.executable} {self.directory}/server.py {{port}} {self.pids} {' '.join(flags)}"
        run = subprocess.run(
            [
                *(sys.executable, IDLE, f"--first={first}", f"--last={last}", f"--json={self.directory}/report"),
                *(f"ours={server}", f"raw=tcp:{server}"),
            ],
            capture_output=True, text=True, timeout=120,
        )
        left = [path.name for path in self.pids.iterdir() if is_running(path.name)]
        self.assertEqual(left, [], "servers were left behind")
        return run

    def test_what_a_connection_takes_is_told(self):
        run = self.run_idle()
        self.assertEqual(run.returncode, 0, run.stderr)
        report = json.loads((self.directory / "report").read_text())
        for name in ("ours", "raw"):
            each = {state: row["bytes_per_connection"] / 1024 for state, row in report["servers"][name].items()}
            # Python's own objects, and the allocator's pages, come on top.
            self.assertTrue(64 <= each["idle"] <= 76, each)
            self.assertTrue(96 <= each["echoed"] <= 112, each)
        self.assertRegex(run.stdout, r"\| ours \| [67]\d,\d{3} B \| \d+,\d{3} B \| [\d.]+ MiB \|")
        self.assertIn("from 50 to 450", run.stdout)
        self.assertEqual(len(list(self.pids.iterdir())), 4, "a server of its own for each state")

    def test_a_wrong_echo_fails_the_run(self):
        run = self.run_idle("--wrong")
        self.assertEqual(run.returncode, 1)
        self.assertIn("FAILED: ours: connection 0: the echo is wrong", run.stderr)
        self.assertNotIn("|", run.stdout)

    def test_more_connections_than_files_are_refused(self):
        run = self.run_idle(last=10**9)
        self.assertEqual(run.returncode, 2)
        self.assertIn("ulimit -Hn", run.stderr)


def is_running(pid):
    """Whether there is such a process, zombies apart."""
    with contextlib.suppress(OSError, IndexError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


if __name__ == "__main__":
    unittest.main()
