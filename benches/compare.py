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

A cell is KIND:CONNECTIONS:SIZE:DEPTH, KIND as loadtest knows it, DEPTH the messages in flight on each connection; or
churn:CONNECTIONS, in which each connection upgrades, echoes one message and is reset, and the next one follows. The
messages of 10,000 connections go round in some 100 ms, or much more: give them --slice 2s --warmup 1s.

Round-trip times, of ringback with and without --busy-poll for example, are the p50 of --cells text:1:64:1,text:16:64:1.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import re
import shlex
import signal
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass

from harness import Failure, Server, ServerSpec, allow_files, describe_environment, print_environment

# Beyond the slice and its warm-up: connecting, draining, printing.
SLICE_GRACE_S = 60
BOOTSTRAP_SAMPLES = 10_000
INTERVAL = 0.95
# How long the load generator's connections may take to open, and the last echoes to come, and the connections to end:
# for ten thousand connections a second is not enough where others use the machine too.
CONNECT_TIMEOUT_S = 30
GRACE_S = 10
# The kind of cell whose connections come and go.
CHURN = "churn"


def main():
    # SIGTERM unwinds like Ctrl-C, so that the servers are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("compare: terminated"))
    options = parse_arguments()
    environment = describe_environment(options.server_core)
    environment |= {"client_core": options.client_core, "seed": options.seed}
    print_environment(environment)
    allow_files()
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
        print_table(cell, summary, options.references)
    if options.json:
        report = {
            "environment": environment,
            "baseline": options.baseline,
            "also_to": options.also_to,
            "rounds": options.rounds,
            "slice_s": options.slice,
            "servers": {spec.name: asdict(spec) for spec in options.servers},
            "cells": [
                {**asdict(cell), "name": str(cell), "unit": cell.unit, "summary": cells[cell], "rounds": measured[cell]}
                for cell in options.cells
            ],
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")


# --- What is compared


@dataclass(frozen=True)
class Cell:
    """One load. Each connection of a churn is for one message."""

    kind: str
    connections: int
    size: str
    depth: int

    @classmethod
    def parse(cls, text):
        """Reads KIND:CONNECTIONS:SIZE:DEPTH or churn:CONNECTIONS."""
        try:
            kind, connections, *rest = text.split(":")
            size, depth = rest if kind != CHURN else rest + ["64", "1"]
            cell = cls(kind, int(connections), size, int(depth))
        except ValueError:
            wanted = f"KIND:CONNECTIONS:SIZE:DEPTH or {CHURN}:CONNECTIONS"
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None
        if not (cell.kind and cell.size and cell.connections > 0 and cell.depth > 0):
            raise argparse.ArgumentTypeError(f"{text!r} has an empty or zero part")
        return cell

    @property
    def unit(self):
        """What costs are counted by."""
        return "connection" if self.kind == CHURN else "message"

    @property
    def arguments(self):
        """The load in the words of loadtest."""
        count = ("-c", str(self.connections))
        if self.kind == CHURN:
            return (*count, "--churn")
        return (*count, "--depth", str(self.depth), "--size", self.size, "--kind", self.kind)

    def __str__(self):
        if self.kind == CHURN:
            return f"{CHURN}:{self.connections}"
        return f"{self.kind}:{self.connections}:{self.size}:{self.depth}"


# --- Measuring


def visit_all(servers, cell, shuffler, options):
    """One slice on each server, in random order: the load generator's JSON by the server's name."""
    visits = {}
    for server in shuffler.sample(servers, len(servers)):
        name = server.spec.name
        before = server.counters() if name in options.counters else {}
        visits[name] = visit(server, cell, options)
        server.check_alive()
        if before:
            visits[name]["server_counters"] = grown(before, server.counters())
    return visits


def visit(server, cell, options):
    """One slice on one server: what the load generator measured, if every echo was right."""
    path = options.path if server.spec.scheme == "ws" else ""
    command = [
        str(options.loadtest),
        f"{server.spec.scheme}://127.0.0.1:{server.port}{path}",
        *cell.arguments,
        *("--connect-timeout", f"{CONNECT_TIMEOUT_S}s", "--grace", f"{GRACE_S}s"),
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


def grown(before, after):
    """How much each counter has grown."""
    return {name: value - before.get(name, 0) for name, value in after.items()}


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
        for name, figure in RATIOS.items():
            row[name] = {
                reference: judge_ratios(
                    [figure(visits[spec.name]) / figure(visits[reference]) for visits in rounds], options.seed
                )
                for reference in options.references
            }
        row["counters_per_message"] = counters_per_message(visits)
        rows[spec.name] = row
    return rows


RATIOS = {
    "cpu_ratio": lambda visit: visit["server_cpu_us_per_message"],
    "rate_ratio": lambda visit: visit["messages_per_second"],
    "p50_ratio": lambda visit: visit["latency_us"]["p50"],
}


def judge_ratios(ratios, seed):
    low, high = bootstrap_interval(ratios, random.Random(seed))
    return {"median": statistics.median(ratios), "low": low, "high": high}


def counters_per_message(visits):
    """Medians of what the server counted, by its echoes: over whole visits, for nobody tells it of the window."""
    counted = [visit for visit in visits if "server_counters" in visit]
    names = counted[0]["server_counters"] if counted else ()
    return {
        name: statistics.median(visit["server_counters"][name] / visit["echoes_checked"] for visit in counted)
        for name in names
    }


def bootstrap_interval(values, resampler):
    """Where the median of `values` lies with 95 % confidence, by drawing them again with replacement."""
    medians = sorted(
        statistics.median(resampler.choices(values, k=len(values))) for _ in range(BOOTSTRAP_SAMPLES)
    )
    outside = (1 - INTERVAL) / 2
    return medians[int(BOOTSTRAP_SAMPLES * outside)], medians[int(BOOTSTRAP_SAMPLES * (1 - outside)) - 1]


# --- Telling


def print_table(cell, summary, references):
    connections = f"{cell.connections} connection{'s' if cell.connections > 1 else ''}"
    what = f"{connections} at a time" if cell.kind == CHURN else f"{connections}, {cell.size}, {cell.depth} in flight"
    baseline = references[0]
    columns = {
        f"server CPU a {cell.unit}": lambda row: f"{row['server_cpu_us_per_message']:.3f} µs",
        **{f"to {name} (95 %)": lambda row, name=name: ratio(row["cpu_ratio"][name]) for name in references},
        f"rate, to {baseline} (95 %)":
            lambda row: f"{row['messages_per_second']:,.0f}/s, {ratio(row['rate_ratio'][baseline])}",
        "p50": lambda row: f"{row['latency_p50_us']:,.0f} µs",
        f"p50, to {baseline} (95 %)": lambda row: ratio(row["p50_ratio"][baseline]),
        "p99": lambda row: f"{row['latency_p99_us']:,.0f} µs",
    }
    if any(ENTERS in row["counters_per_message"] for row in summary.values()):
        columns[f"{ENTERS}/{'conn' if cell.kind == CHURN else 'msg'}"] = enters
    print(f"\n### {cell.kind}, {what}\n")
    print("| server | " + " | ".join(columns) + " |")
    print("|---|" + "--:|" * len(columns))
    for name, row in summary.items():
        print(f"| {name} | " + " | ".join(tell(row) for tell in columns.values()) + " |")
    for name, row in summary.items():
        if row["slices_bound_by_client"]:
            print(
                f"\n{name}: the load generator was the bottleneck in {row['slices_bound_by_client']}"
                f" of {row['slices']} slices; the rate is not the server's."
            )
    sys.stdout.flush()


# The counter of calls of io_uring_enter(2).
ENTERS = "enters"


def enters(row):
    count = row["counters_per_message"].get(ENTERS)
    return "–" if count is None else f"{count:.3f}"


def ratio(row):
    return f"**{row['median']:.3f}** ({row['low']:.3f}–{row['high']:.3f})"


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
    add("--also-to", metavar="NAME", help="a second server that ratios are taken to")
    add("--counters", metavar="NAME,…", type=lambda text: text.split(","), default=[],
        help="servers that log 'counters: NAME=VALUE …' on SIGUSR1, as ringback does (others it ends): what they "
             "count a message, opening and closing included, is told too")
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
    options.references = list(dict.fromkeys(filter(None, (options.baseline, options.also_to))))
    for name in (*options.references, *options.counters):
        if name not in names:
            parser.error(f"{name} is none of {', '.join(names)}")
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
