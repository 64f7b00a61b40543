#!/usr/bin/env bash
# Prints how evenly connections come to workers: how many the busiest worker got in the median and in the worst of the rounds,
# and the idlest one in the worst, where an even share is 100.
#
#     cargo build --release --workspace && benches/balance.sh [TARGET_FOLDER] [ROUNDS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${1:-${CARGO_TARGET_DIR:-target}/release}
rounds=${2:-15}
trap '[ -z "${server:-}" ] || kill "$server" 2>/dev/null || true' EXIT

# A line for each worker.
accepted() { curl -sf "$admin/metrics" | sed -n 's/^ringback_connections_accepted_total{worker=.*} //p'; }

for workers in 2 8; do
    for connections in 8 64 1000; do
        exec {out}< <(exec "$target/ringback" --listen 127.0.0.1:0 --admin 127.0.0.1:0 --workers "$workers" --no-pin 2>/dev/null)
        server=$!
        read -r -u "$out" _ _ url _
        read -r -u "$out" _ _ admin
        for ((round = 0; round < rounds; round++)); do
            before=$(accepted)
            "$target/loadtest" "$url" -c "$connections" -d 200ms >/dev/null
            paste <(echo "$before") <(accepted) | awk -v even="$((connections / workers))" '
                { share = 100 * ($2 - $1) / even; if (NR == 1 || share > most) most = share; if (NR == 1 || share < least) least = share }
                END { printf "%d %d\n", most, least }'
        done | sort -n | awk -v what="$connections connections on $workers workers" '
            { most[NR] = $1; if (NR == 1 || $2 < least) least = $2 }
            END { printf "%s: the busiest %d (%d at worst), the idlest %d at worst\n", what, most[int((NR + 1) / 2)], most[NR], least }'
        kill "$server"
        while kill -0 "$server" 2>/dev/null; do sleep 0.05; done
        server=
        exec {out}<&-
    done
done
