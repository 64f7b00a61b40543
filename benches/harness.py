"""What compare.py and idle.py share: servers under measurement, and what else a figure depends on."""

import argparse
import contextlib
import datetime
import os
import pathlib
import platform
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

START_DEADLINE_S = 10
STOP_DEADLINE_S = 10
COUNTERS_DEADLINE_S = 10
# The most of a server's log that is read at once.
LOG_MAX = 1 << 24


class Failure(Exception):
    """A run that must not be believed; the message says why."""


# --- Servers


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
    """A running server, pinned to a core: started on entering the context, stopped by its pid on leaving it, however
    that is left."""

    spec: ServerSpec
    core: int
    # What it starts with instead of our environment.
    environment: dict = None
    port: int = 0
    process: subprocess.Popen = None
    output: object = field(default_factory=lambda: tempfile.TemporaryFile())

    def __enter__(self):
        self.port = free_port()
        command = shlex.split(self.spec.command.replace("{port}", str(self.port)).replace("{core}", str(self.core)))
        try:
            self.process = subprocess.Popen(
                command,
                env=self.environment,
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

    def counters(self):
        """What the server logs of its counters when it gets SIGUSR1, as ringback does: a number by each name."""
        seen = os.fstat(self.output.fileno()).st_size
        self.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + COUNTERS_DEADLINE_S
        while time.monotonic() < deadline:
            self.check_alive()
            match = re.search(rb"counters: ((?:\w+=\d+ ?)+).*\n", self.logged(seen))
            if match:
                pairs = (pair.split("=") for pair in match.group(1).decode().split())
                return {name: int(value) for name, value in pairs}
            time.sleep(0.005)
        raise Failure(f"{self.spec.name} logs no line with 'counters: NAME=VALUE …' on SIGUSR1{self.last_words()}")

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
        lines = self.logged(0).decode(errors="replace").splitlines()[-10:]
        return "".join(f"\n    {line}" for line in lines)


    def logged(self, since):
        """What it has written from this offset on. Its own offset is the same as ours, so that stays where it is."""
        return os.pread(self.output.fileno(), LOG_MAX, since)


def allow_files():
    """Lets this process, and those it starts, open as many files as it may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- What a figure depends on beside the servers


def describe_environment(server_core):
    """The machine, the moment, and what was asked for."""
    repository = pathlib.Path(__file__).resolve().parent
    commit = output_of("git", "-C", repository, "rev-parse", "HEAD")
    if commit and output_of("git", "-C", repository, "status", "--porcelain", "--untracked-files=no"):
        commit += " (with changes)"
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": first_match(r"model name\s*: (.*)", "/proc/cpuinfo"),
        "cores": os.cpu_count(),
        "server_core": server_core,
        "congestion_control_of_the_system": first_match(r"(\S+)", "/proc/sys/net/ipv4/tcp_congestion_control"),
        "load_average": os.getloadavg()[0],
        "commit": commit or "unknown",
        "command": shlex.join([os.path.basename(sys.executable), *sys.argv]),
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
