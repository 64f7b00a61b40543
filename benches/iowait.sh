#!/usr/bin/env bash
# Prints how long the machine waited for disks, as top and PSI count it: by itself, and beside an idle server of each engine
# with clients that say nothing. On a quiet machine the lines agree, but for the ring engine on kernels before 6.15.
#
#     cargo build --release --workspace && benches/iowait.sh [RINGBACK] [SECONDS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ringback=${1:-${CARGO_TARGET_DIR:-target}/release/ringback}
seconds=${2:-5}
trap '[ -z "${server:-}" ] || kill "$server" 2>/dev/null || true' EXIT

# Ticks of 10 ms, and microseconds.
iowait() { awk '/^cpu / { print $6 }' /proc/stat; }
pressure() { sed -n 's/^some .*total=//p' /proc/pressure/io 2>/dev/null || true; }

measure() {
    local ticks pressed
    sleep 1
    ticks=$(iowait) pressed=$(pressure)
    sleep "$seconds"
    ticks=$(($(iowait) - ticks))
    pressed=${pressed:+$((($(pressure) - pressed) / 1000)) ms}
    echo "$1: in $seconds s iowait of $((10 * ticks)) ms on $(nproc) CPUs, I/O pressure of ${pressed:-? (no /proc/pressure/io)}"
}

measure "the machine by itself"
for engine in ring tokio-uring epoll; do
    exec {out}< <(exec "$ringback" --listen 127.0.0.1:0 --engine "$engine" 2>/dev/null)
    server=$!
    read -r -u "$out" _ _ url _ || { echo "$engine: cannot run here"; server=; continue; }
    port=${url##*:} port=${port%%/*}
    exec {client}<>"/dev/tcp/127.0.0.1/$port"
    measure "an idle server, $engine"
    exec {client}>&-
    kill "$server"
    while kill -0 "$server" 2>/dev/null; do sleep 0.05; done
    server=
    exec {out}<&-
done
