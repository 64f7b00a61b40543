#!/usr/bin/env bash
# Prints how many payload bytes ringback copied in user space, since their frame came in pieces, of how many that it
# echoed: for each load in a process of its own.
#
#     cargo build --release --workspace && benches/gathered.sh [TARGET_FOLDER]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${1:-${CARGO_TARGET_DIR:-target}}/release
log=$(mktemp)
trap 'rm -f "$log"; [ -z "${server:-}" ] || kill "$server" 2>/dev/null || true' EXIT

for load in "-c 64 --size 64" "-c 64 --size 64 --depth 16" "-c 16 --size 16KiB" "-c 16 --size 16KiB --kind utf8" \
    "-c 4 --size 1MiB --kind binary"; do
    for engine in epoll tokio-uring; do
        exec {out}< <(exec "$target/ringback" --listen 127.0.0.1:0 --workers 1 --engine "$engine" 2>"$log")
        server=$!
        read -r -u "$out" _ _ url _
        # shellcheck disable=SC2086 # several words
        "$target/loadtest" "$url" $load -d 2s >/dev/null
        kill "$server"
        while kill -0 "$server" 2>/dev/null; do sleep 0.05; done
        server=
        exec {out}<&-
        echo "$engine, $load: $(grep -o 'payload_bytes=[0-9]* bytes_gathered=[0-9]*' "$log")"
    done
done
