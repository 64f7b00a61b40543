#!/usr/bin/env python3
"""Compares echo servers, interleaved: the only figures that repeat on a machine with other tenants.

All servers are up together, each pinned to one core; the load generator, pinned to another, visits them in random
order in short slices, many rounds over. What counts is the ratio of a server's CPU time a message to the baseline's
in the same round: noise slower than a round meets both alike. The median of the ratios is printed with a 95 %
bootstrap interval.

    cargo build --release --workspace
    python3 benches/compare.py --rounds 10 --slice 2s \\
        --cells text:64:64:1,text:64:64:16,utf8:16:16KiB:1 --baseline tungstenite \\
        ringback='target/release/ringback --listen 127.0.0.1:{port} --workers 1 --engine epoll --congestion-control cubic' \\
        tungstenite='target/release/tungstenite-echo --listen 127.0.0.1:{port} --congestion cubic' \\
        raw='tcp:target/release/raw-tcp-echo --listen 127.0.0.1:{port} --congestion cubic'

A cell is KIND:CONNECTIONS:SIZE:DEPTH, KIND as loadtest knows it, DEPTH the messages in flight on each connection.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import random
import re
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field

START_DEADLINE_S = 10
STOP_DEADLINE_S = 10
# Beyond the slice and its warm-up: connecting, draining, printing.
SLICE_GRACE_S = 60
BOOTSTRAP_SAMPLES = 10_000
INTERVAL = 0.95


def main():
    # SIGTERM unwinds like Ctrl-C, so that the servers are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("compare: terminated"))
    options = parse_arguments()
    environment = describe_environment(options)
    print_environment(environment)
    shuffler = random.Random(options.seed)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Server(spec, options.server_core)) for spec in options.servers]
        measured = {cell: [] for cell in options.cells}
        for number in range(1, options.rounds + 1):
            for cell in options.cells:
                print(f"round {number} of {options.rounds}, {cell}", file=sys.stderr)
                measured[cell].append(visit_all(servers, cell, shuffler, options))
    cells = {cell: summarize(rounds, options) for cell, rounds in measured.items()}
    for cell, summary in cells.items():
        print_table(cell, summary, options.baseline)
    if options.json:
        report = {
            "environment": environment,
            "baseline": options.baseline,
            "rounds": options.rounds,
            "slice_s": options.slice,
            "servers": {spec.name: asdict(spec) for spec in options.servers},
            "cells": [
                {**asdict(cell), "name": str(cell), "summary": cells[cell], "rounds": measured[cell]}
                for cell in options.cells
            ],
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")


class Failure(Exception):
    """A run that must not be believed; the message says why."""


# --- What is compared


@dataclass(frozen=True)
class Cell:
    """One load."""

    kind: str
    connections: int
    size: str
    depth: int

    @classmethod
    def parse(cls, text):
        """Reads KIND:CONNECTIONS:SIZE:DEPTH."""
        try:
            kind, connections, size, depth = text.split(":")
            cell = cls(kind, int(connections), size, int(depth))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not KIND:CONNECTIONS:SIZE:DEPTH") from None
        if not (cell.kind and cell.size and cell.connections > 0 and cell.depth > 0):
            raise argparse.ArgumentTypeError(f"{text!r} has an empty or zero part")
        return cell

    def __str__(self):
        return f"{self.kind}:{self.connections}:{self.size}:{self.depth}"


@dataclass(frozen=True)
class ServerSpec:
    """What the command line says of a server."""

    name: str
    scheme: str
    command: str

    @classmethod
    def parse(cls, text):
        """Reads NAME=[SCHEME:]COMMAND."""
        match = re.fullmatch(r"([\w.-]+)=(?:(ws|tcp):)?(\S.*)", text)
        if not match:
            raise argparse.ArgumentTypeError(f"{text!r} is not NAME=[ws:|tcp:]COMMAND")
        name, scheme, command = match.groups()
        if "{port}" not in command:
            raise argparse.ArgumentTypeError(f"the command of {name} has no {{port}}")
        return cls(name, scheme or "ws", command)


@dataclass
class Server:
    """A running server: started on entering the context, stopped by its pid on leaving it, however that is left."""

    spec: ServerSpec
    core: int
    port: int = 0
    process: subprocess.Popen = None
    output: object = field(default_factory=lambda: tempfile.TemporaryFile())

    def __enter__(self):
        self.port = free_port()
        command = shlex.split(self.spec.command.replace("{port}", str(self.port)).replace("{core}", str(self.core)))
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self.output,
                stderr=subprocess.STDOUT,
                # Out of reach of the terminal's Ctrl-C: it is ours to stop, in order.
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {self.core}),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise Failure(f"{self.spec.name} does not start: {error}") from None
        try:
            self.await_listening()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def await_listening(self):
        deadline = time.monotonic() + START_DEADLINE_S
        while True:
            self.check_alive()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                # Without a listener, a probe that happens to get the port as its own connects to itself.
                if probe.getsockname() != probe.getpeername():
                    return
            if time.monotonic() > deadline:
                raise Failure(f"{self.spec.name} does not listen on port {self.port}{self.last_words()}")
            time.sleep(0.02)

    def check_alive(self):
        status = self.process.poll()
        if status is not None:
            raise Failure(f"{self.spec.name} has ended with status {status}{self.last_words()}")

    def stop(self):
        if self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            status = self.process.wait(STOP_DEADLINE_S)
            if status != 0:
                print(f"compare: {self.spec.name} ended with status {status}", file=sys.stderr)
        except subprocess.TimeoutExpired:
            print(f"compare: {self.spec.name} does not end on SIGTERM: killed", file=sys.stderr)
            self.process.kill()
            self.process.wait()

    def last_words(self):
        self.output.seek(0)
        lines = self.output.read().decode(errors="replace").splitlines()[-10:]
        return "".join(f"\n    {line}" for line in lines)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- Measuring


def visit_all(servers, cell, shuffler, options):
    """One slice on each server, in random order: the load generator's JSON by the server's name."""
    visits = {}
    for server in shuffler.sample(servers, len(servers)):
        visits[server.spec.name] = visit(server, cell, options)
        server.check_alive()
    return visits


def visit(server, cell, options):
    """One slice on one server: what the load generator measured, if every echo was right."""
    path = options.path if server.spec.scheme == "ws" else ""
    command = [
        str(options.loadtest),
        f"{server.spec.scheme}://127.0.0.1:{server.port}{path}",
        *("-c", str(cell.connections), "--depth", str(cell.depth)),
        *("--size", cell.size, "--kind", cell.kind),
        *("-d", milliseconds(options.slice), "--warmup", milliseconds(options.warmup)),
        *("--server-pid", str(server.process.pid), "--pin", str(options.client_core), "--json"),
        *options.loadtest_args,
    ]
    what = f"{server.spec.name}, {cell}: {shlex.join(command)}"
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=options.slice + options.warmup + SLICE_GRACE_S
        )
    except OSError as error:
        raise Failure(f"the load generator does not start: {error}") from None
    except subprocess.TimeoutExpired:
        raise Failure(f"{what}\n    does not end{server.last_words()}") from None
    if run.returncode != 0:
        raise Failure(f"{what}\n    status {run.returncode}: {run.stderr or run.stdout}{server.last_words()}")
    try:
        visit = json.loads(run.stdout)
        errors = count_errors(visit["errors"])
        latency = visit["latency_us"]
        figures = (visit["server_cpu_us_per_message"], visit["messages_per_second"], latency["p50"], latency["p99"])
        measured = all(figure > 0 for figure in figures) and visit["client"]["is_bottleneck"] in (False, True)
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(f"{what}\n    its JSON does not fit ({error!r}): {run.stdout[:500]}") from None
    if errors:
        raise Failure(f"{what}\n    errors: {json.dumps(visit['errors'])}")
    if not measured:
        raise Failure(f"{what}\n    nothing was measured: {run.stdout[:500]}")
    return visit


def count_errors(errors):
    """The errors in the load generator's report, one number or a tree of numbers by kind."""
    if isinstance(errors, dict):
        return sum(count_errors(kind) for kind in errors.values())
    if isinstance(errors, list):
        return len(errors)
    return int(errors)


# --- Judging


def summarize(rounds, options):
    """A row for each server: medians, and its ratios to the baseline in the same round."""
    rows = {}
    for spec in options.servers:
        visits = [visits[spec.name] for visits in rounds]
        row = {
            "server_cpu_us_per_message": statistics.median(visit["server_cpu_us_per_message"] for visit in visits),
            "messages_per_second": statistics.median(visit["messages_per_second"] for visit in visits),
            "latency_p50_us": statistics.median(visit["latency_us"]["p50"] for visit in visits),
            "latency_p99_us": statistics.median(visit["latency_us"]["p99"] for visit in visits),
            "slices": len(visits),
            "slices_bound_by_client": sum(visit["client"]["is_bottleneck"] for visit in visits),
        }
        for name, figure in (("cpu_ratio", "server_cpu_us_per_message"), ("rate_ratio", "messages_per_second")):
            ratios = [visits[spec.name][figure] / visits[options.baseline][figure] for visits in rounds]
            low, high = bootstrap_interval(ratios, random.Random(options.seed))
            row[name] = {"median": statistics.median(ratios), "low": low, "high": high}
        rows[spec.name] = row
    return rows


def bootstrap_interval(values, resampler):
    """Where the median of `values` lies with 95 % confidence, by drawing them again with replacement."""
    medians = sorted(
        statistics.median(resampler.choices(values, k=len(values))) for _ in range(BOOTSTRAP_SAMPLES)
    )
    outside = (1 - INTERVAL) / 2
    return medians[int(BOOTSTRAP_SAMPLES * outside)], medians[int(BOOTSTRAP_SAMPLES * (1 - outside)) - 1]


# --- Telling


def print_table(cell, summary, baseline):
    connections = f"{cell.connections} connection{'s' if cell.connections > 1 else ''}"
    print(f"\n### {cell.kind}, {connections}, {cell.size}, {cell.depth} in flight\n")
    print(f"| server | server CPU a message | to {baseline} (95 %) | rate, to {baseline} (95 %) | p50 | p99 |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, row in summary.items():
        print(
            f"| {name} | {row['server_cpu_us_per_message']:.3f} µs | {ratio(row['cpu_ratio'])}"
            f" | {row['messages_per_second']:,.0f}/s, {ratio(row['rate_ratio'])}"
            f" | {row['latency_p50_us']:,.0f} µs | {row['latency_p99_us']:,.0f} µs |"
        )
    for name, row in summary.items():
        if row["slices_bound_by_client"]:
            print(
                f"\n{name}: the load generator was the bottleneck in {row['slices_bound_by_client']}"
                f" of {row['slices']} slices; the rate is not the server's."
            )
    sys.stdout.flush()


def ratio(row):
    return f"**{row['median']:.3f}** ({row['low']:.3f}–{row['high']:.3f})"


def describe_environment(options):
    """What a figure depends on beside the servers."""
    repository = pathlib.Path(__file__).resolve().parent
    commit = output_of("git", "-C", repository, "rev-parse", "HEAD")
    if commit and output_of("git", "-C", repository, "status", "--porcelain", "--untracked-files=no"):
        commit += " (with changes)"
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": first_match(r"model name\s*: (.*)", "/proc/cpuinfo"),
        "cores": os.cpu_count(),
        "server_core": options.server_core,
        "client_core": options.client_core,
        "congestion_control_of_the_system": first_match(r"(\S+)", "/proc/sys/net/ipv4/tcp_congestion_control"),
        "load_average": os.getloadavg()[0],
        "commit": commit or "unknown",
        "command": shlex.join([os.path.basename(sys.executable), *sys.argv]),
        "seed": options.seed,
    }


def print_environment(environment):
    for name, value in environment.items():
        print(f"- {name.replace('_', ' ')}: {value}")
    sys.stdout.flush()


def output_of(*command):
    """What `command` prints, empty if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def first_match(pattern, path):
    try:
        match = re.search(pattern, pathlib.Path(path).read_text())
    except OSError:
        match = None
    return match.group(1) if match else "unknown"


# --- The command line


def parse_arguments():
    root = pathlib.Path(__file__).resolve().parent.parent
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    allowed = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("servers", metavar="NAME=[SCHEME:]COMMAND", nargs="+", type=ServerSpec.parse,
        help="a server; {port} and {core} are filled in; SCHEME is ws (default) or tcp; run without a shell, "
             "so that its pid is the server's")
    add("--cells", metavar="CELL,…", type=lambda text: [Cell.parse(cell) for cell in text.split(",")],
        default="text:64:64:1,text:64:64:16,text:16:16KiB:1,utf8:16:16KiB:1,binary:4:1MiB:1",
        help="the loads (default: %(default)s)")
    add("--baseline", metavar="NAME", help="the server that ratios are taken to (default: the first)")
    add("--rounds", metavar="N", type=positive_number(int), default=10, help="(default: %(default)s)")
    add("--slice", metavar="TIME", type=seconds, default="2s", help="measured in each visit (default: %(default)s)")
    add("--warmup", metavar="TIME", type=seconds, default="300ms", help="before each slice (default: %(default)s)")
    add("--server-core", metavar="N", type=int, default=allowed[0], help="(default: %(default)s)")
    add("--client-core", metavar="N", type=int, default=allowed[min(1, len(allowed) - 1)],
        help="(default: %(default)s)")
    add("--path", default="/ws", help="the target of ws servers (default: %(default)s)")
    add("--seed", type=int, default=random.randrange(2**32), help="of the order and the intervals (default: random)")
    add("--json", metavar="FILE", type=pathlib.Path, help="write every slice and the summary there as well")
    add("--loadtest", metavar="FILE", type=pathlib.Path, default=target / "release/loadtest",
        help="the load generator (default: %(default)s)")
    add("--loadtest-args", metavar="ARGUMENTS", type=shlex.split, default=[],
        help="more for it, as one word: --loadtest-args='--congestion cubic'")
    options = parser.parse_args()
    names = [spec.name for spec in options.servers]
    if len(set(names)) < len(names):
        parser.error("two servers of one name")
    options.baseline = options.baseline or names[0]
    if options.baseline not in names:
        parser.error(f"the baseline {options.baseline} is none of {', '.join(names)}")
    options.cells = list(dict.fromkeys(options.cells))
    for core in (options.server_core, options.client_core):
        if core not in allowed:
            parser.error(f"core {core} is not one of those allowed, {allowed}")
    if options.server_core == options.client_core:
        print("compare: the servers and the load generator share a core", file=sys.stderr)
    return options


def positive_number(number):
    def parse(text):
        value = number(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not positive")
        return value

    return parse


def seconds(text):
    """Reads 300ms, 2s or 1.5s."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", text)
    if not match or float(match.group(1)) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 300ms or 2s")
    return float(match.group(1)) / (1000 if match.group(2) == "ms" else 1)


def milliseconds(time_s):
    return f"{round(time_s * 1000)}ms"


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"compare: FAILED: {failure}")
    except KeyboardInterrupt:
        sys.exit("compare: interrupted")
