#!/usr/bin/env python3
"""Tests of compare.py, with a load generator and servers of a few lines: `python3 benches/test_compare.py`."""

import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import compare

COMPARE = pathlib.Path(compare.__file__)

# Accepts and holds connections; `--dies` ends it at the second.
SERVER = """
import os, pathlib, socket, sys
pathlib.Path(sys.argv[2], str(os.getpid())).touch()
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
held = [listener.accept()]
while True:
    held.append(listener.accept())
    if "--dies" in sys.argv:
        sys.exit("the server's last words")
"""

# A ws server costs it twice what a tcp server costs.
LOADTEST = """#!/usr/bin/env python3
import json, os, socket, sys, time
url = sys.argv[1]
value = dict(zip(sys.argv, sys.argv[1:]))
assert os.sched_getaffinity(int(value["--server-pid"])) == {int(os.environ["SERVER_CORE"])}
assert value["-d"] == "1500ms" and value["--warmup"] == "300ms" and value["-c"] == "3" and "--json" in sys.argv
host, port = url.split("://")[1].split("/")[0].split(":")
socket.create_connection((host, int(port)))
time.sleep(float(os.environ.get("SLEEP", 0.05)))
cost = 2 if url.startswith("ws") else 1
print(json.dumps({
    "messages_per_second": 1e6 / cost, "server_cpu_us_per_message": cost, "client_cpu_us_per_message": 1,
    "latency_us": {"p50": 10 * cost, "p99": 50}, "errors": json.loads(os.environ.get("ERRORS", "0")),
    "client": {"is_bottleneck": url.startswith("tcp")},
}))
"""


class Run(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.pids = self.directory / "pids"
        self.pids.mkdir()
        (self.directory / "server.py").write_text(SERVER)
        loadtest = self.directory / "loadtest"
        loadtest.write_text(LOADTEST)
        loadtest.chmod(0o755)

    def start(self, *arguments, rounds=3, ws_flags="", **environment):
        server = f"{sys.executable} {self.directory}/server.py {{port}} {self.pids}"
        core = str(min(os.sched_getaffinity(0)))
        command = [
            *(sys.executable, COMPARE, f"--rounds={rounds}", "--slice=1.5s", "--cells=text:3:64:1,utf8:3:16KiB:2"),
            *("--seed=1", f"--server-core={core}", f"--loadtest={self.directory}/loadtest", "--baseline=raw"),
            *(f"ours={server} {ws_flags}", f"raw=tcp:{server}", *arguments),
        ]
        environment = {**os.environ, "SERVER_CORE": core, **environment}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def finish(self, process):
        output, errors = process.communicate(timeout=60)
        started = [int(path.name) for path in self.pids.iterdir()]
        left = [pid for pid in started if runs(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.assertEqual(left, [], "servers were left behind")
        return process.returncode, output, errors, len(started)

    def test_ratios_are_taken_to_the_baseline(self):
        status, output, errors, started = self.finish(self.start(f"--json={self.directory}/report"))
        self.assertEqual((status, started), (0, 2), errors)
        report = json.loads((self.directory / "report").read_text())
        self.assertEqual([cell["name"] for cell in report["cells"]], ["text:3:64:1", "utf8:3:16KiB:2"])
        for cell in report["cells"]:
            self.assertEqual(cell["summary"]["ours"]["cpu_ratio"], {"median": 2, "low": 2, "high": 2})
            self.assertEqual(cell["summary"]["ours"]["rate_ratio"]["median"], 0.5)
            self.assertEqual(cell["summary"]["raw"]["cpu_ratio"]["median"], 1)
            self.assertEqual([sorted(visits) for visits in cell["rounds"]], [["ours", "raw"]] * 3)
        self.assertIn("| ours | 2.000 µs | **2.000** (2.000–2.000) | 500,000/s, **0.500**", output)
        self.assertIn("\nraw: the load generator was the bottleneck in 3 of 3 slices", output)
        self.assertNotIn("\nours: the load", output)
        for told in ("- kernel: Linux", "- cpu: ", "- commit: ", "- congestion control of the system: ", "--seed=1"):
            self.assertIn(told, output)

    def test_any_error_of_an_echo_fails_the_run(self):
        for wrong in ("1", '{"mismatch": 0, "connect": 2}'):
            status, output, errors, _ = self.finish(self.start(ERRORS=wrong))
            self.assertEqual(status, 1)
            self.assertIn("FAILED", errors)
            self.assertNotIn("|", output)
        self.assertEqual(self.finish(self.start(ERRORS='{"mismatch": 0}'))[0], 0)

    def test_a_server_that_ends_fails_the_run(self):
        status, output, errors, _ = self.finish(self.start(ws_flags="--dies"))
        self.assertEqual(status, 1)
        self.assertIn("the server's last words", errors)
        self.assertNotIn("|", output)

    def test_a_server_that_does_not_start_stops_the_others(self):
        status, _, errors, started = self.finish(self.start("third=/nonexistent {port}"))
        self.assertEqual((status, started), (1, 2))
        self.assertIn("third does not start", errors)

    def test_signals_stop_the_servers(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            process = self.start(rounds=1000, SLEEP="0.5")
            deadline = time.monotonic() + 30
            while len(list(self.pids.iterdir())) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(number)
            status, _, _, started = self.finish(process)
            self.assertEqual((status, started), (1, 2))
            for path in self.pids.iterdir():
                path.unlink()


class Parts(unittest.TestCase):
    def test_the_interval_holds_the_median_and_narrows_with_more_rounds(self):
        noise = random.Random(2)
        widths = []
        for count in (10, 1000):
            low, high = compare.bootstrap_interval([noise.gauss(1, 0.1) for _ in range(count)], random.Random(3))
            self.assertLess(low, 1.05)
            self.assertGreater(high, 0.95)
            widths.append(high - low)
        self.assertLess(widths[1], widths[0] / 3)

    def test_arguments_that_do_not_fit_are_refused(self):
        for parse, wrong in (
            (compare.Cell.parse, ("text:64:64", "text:x:64:1", "text:0:64:1", ":1:64:1", "text:1::1")),
            (compare.ServerSpec.parse, ("ringback", "a=", "a=program", "=program {port}")),
            (compare.seconds, ("2", "0s", "2h", "-1s")),
        ):
            for text in wrong:
                with self.assertRaises(compare.argparse.ArgumentTypeError, msg=text):
                    parse(text)

    def test_a_server_is_read_with_its_scheme(self):
        spec = compare.ServerSpec.parse("raw=tcp:echo --port={port}")
        self.assertEqual(spec, compare.ServerSpec("raw", "tcp", "echo --port={port}"))
        self.assertEqual(compare.ServerSpec.parse("a=b {port}").scheme, "ws")


def runs(pid):
    """Whether there is such a process, zombies apart."""
    with contextlib.suppress(OSError, IndexError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


if __name__ == "__main__":
    unittest.main()
