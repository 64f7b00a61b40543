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

# Accepts and holds connections; `--dies` ends it at the second. `--counts` has it log on SIGUSR1, late, how many there
# were.
SERVER = """
import os, pathlib, signal, socket, sys, time
def log(*_):
    time.sleep(0.1)
    print(f"12:00 INFO counters: accepted={len(held)} enters={3 * len(held)}", flush=True)
if "--counts" in sys.argv:
    signal.signal(signal.SIGUSR1, log)
held = []
pathlib.Path(sys.argv[2], str(os.getpid())).touch()
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
held.append(listener.accept())
while True:
    held.append(listener.accept())
    if "--dies" in sys.argv:
        sys.exit("the server's last words")
"""

# A ws server costs twice what a tcp server costs.
LOADTEST = """#!/usr/bin/env python3
import json, os, socket, sys, time
url = sys.argv[1]
value = dict(zip(sys.argv, sys.argv[1:]))
assert os.sched_getaffinity(int(value["--server-pid"])) == {int(os.environ["SERVER_CORE"])}
assert value["-d"] == "1500ms" and value["--warmup"] == "300ms" and value["-c"] == "3" and "--json" in sys.argv
assert ("--churn" in sys.argv) != ("--depth" in sys.argv and "--size" in sys.argv and "--kind" in sys.argv)
host, port = url.split("://")[1].split("/")[0].split(":")
socket.create_connection((host, int(port)))
time.sleep(float(os.environ.get("SLEEP", 0.05)))
cost = 2 if url.startswith("ws") else 1
print(json.dumps({
    "messages_per_second": 1e6 / cost, "server_cpu_us_per_message": cost, "client_cpu_us_per_message": 1,
    "latency_us": {"p50": 10 * cost, "p99": 50}, "errors": json.loads(os.environ.get("ERRORS", "0")),
    "echoes_checked": 4,
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

    def start(self, *arguments, rounds=3, ws_flags="", cells="text:3:64:1,utf8:3:16KiB:2", **environment):
        server = f"{sys.executable} {self.directory}/server.py {{port}} {self.pids}"
        core = str(min(os.sched_getaffinity(0)))
        command = [
            *(sys.executable, COMPARE, f"--rounds={rounds}", "--slice=1.5s", f"--cells={cells}"),
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
            self.assertEqual(cell["unit"], "message")
            ours, raw = cell["summary"]["ours"], cell["summary"]["raw"]
            self.assertEqual(ours["cpu_ratio"], {"raw": {"median": 2, "low": 2, "high": 2}})
            self.assertEqual(ours["rate_ratio"]["raw"]["median"], 0.5)
            self.assertEqual(ours["p50_ratio"]["raw"]["median"], 2)
            self.assertEqual(raw["cpu_ratio"]["raw"]["median"], 1)
            self.assertEqual((ours["server_cpu_us_per_message"], raw["latency_p50_us"]), (2, 10))
            self.assertEqual(ours["counters_per_message"], {})
            self.assertEqual([sorted(visits) for visits in cell["rounds"]], [["ours", "raw"]] * 3)
        self.assertIn("| ours | 2.000 µs | **2.000** (2.000–2.000) | 500,000/s, **0.500**", output)
        self.assertIn("| 20 µs | **2.000** (2.000–2.000) | 50 µs |\n", output)
        self.assertNotIn("enters", output)
        self.assertIn("\nraw: the load generator was the bottleneck in 3 of 3 slices", output)
        self.assertNotIn("\nours: the load", output)
        for told in ("- kernel: Linux", "- cpu: ", "- commit: ", "- congestion control of the system: ", "--seed=1"):
            self.assertIn(told, output)

    def test_ratios_to_a_second_reference(self):
        status, output, errors, _ = self.finish(self.start("--also-to=ours", f"--json={self.directory}/report"))
        self.assertEqual(status, 0, errors)
        report = json.loads((self.directory / "report").read_text())
        self.assertEqual((report["baseline"], report["also_to"]), ("raw", "ours"))
        ratios = report["cells"][0]["summary"]["raw"]["cpu_ratio"]
        self.assertEqual({name: ratio["median"] for name, ratio in ratios.items()}, {"raw": 1, "ours": 0.5})
        self.assertIn("| server CPU a message | to raw (95 %) | to ours (95 %) | rate, to raw (95 %) |", output)
        self.assertIn("| raw | 1.000 µs | **1.000** (1.000–1.000) | **0.500** (0.500–0.500) | 1,000,000/s", output)

    def test_a_churn_is_counted_by_connections(self):
        status, output, errors, _ = self.finish(self.start(f"--json={self.directory}/report", cells="churn:3"))
        self.assertEqual(status, 0, errors)
        cell = json.loads((self.directory / "report").read_text())["cells"][0]
        self.assertEqual((cell["name"], cell["unit"]), ("churn:3", "connection"))
        self.assertIn("### churn, 3 connections at a time\n", output)
        self.assertIn("| server | server CPU a connection | to raw (95 %) |", output)

    def test_what_a_server_counts_is_told_a_message(self):
        started = self.start("--counters=ours", f"--json={self.directory}/report", ws_flags="--counts")
        status, output, errors, _ = self.finish(started)
        self.assertEqual(status, 0, errors)
        cell = json.loads((self.directory / "report").read_text())["cells"][1]
        self.assertEqual(cell["summary"]["ours"]["counters_per_message"], {"accepted": 0.25, "enters": 0.75})
        self.assertEqual(cell["summary"]["raw"]["counters_per_message"], {})
        for visits in cell["rounds"]:
            self.assertEqual(visits["ours"]["server_counters"], {"accepted": 1, "enters": 3})
        self.assertIn(" | p99 | enters/msg |\n", output)
        self.assertRegex(output, r"\| ours \|.*\| 0\.750 \|\n")
        self.assertRegex(output, r"\| raw \|.*\| – \|\n")

    def test_a_server_that_does_not_count_fails_the_run(self):
        status, output, errors, _ = self.finish(self.start("--counters=ours"))
        self.assertEqual(status, 1)
        self.assertIn("ours has ended", errors)
        self.assertNotIn("|", output)

    def test_names_that_no_server_has_are_refused(self):
        for option in ("--baseline=none", "--also-to=none", "--counters=raw,none"):
            status, _, errors, started = self.finish(self.start(option))
            self.assertEqual((status, started), (2, 0))
            self.assertIn("none is none of ours, raw", errors)

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
            (compare.Cell.parse, ("text:1", "churn", "churn:0", "churn:x", "churn:1:64:1")),
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
