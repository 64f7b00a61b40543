#!/usr/bin/env bash
# Compares ringback on each engine with a raw TCP echo and with echoes on other WebSocket libraries, and writes
# docs/BENCHMARKS.md and its charts, docs/benchmarks/*.svg. About half an hour, on a machine that does nothing else.
#
#     benches/compare.sh [OPTIONS]
#
# The options are those of `loadtest compare`, but for where the result goes; `--rounds 6 --slice 200ms` is for a taste. What
# this system or this checkout refuses to run is left out, aloud. The whole result, JSON and a page, lies in
# target/benchmarks. What is in docs is replaced when all of it is there, and not before.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-target}
release=$target/release
scratch=$target/benchmarks
cells=text:64:64:1,text:64:64:16,text:512:64:1,text:16:16KiB:1,utf8:16:16KiB:1,binary:4:1MiB:1,churn:64

main() {
    if given --help "$@" || given -h "$@"; then
        sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p}' benches/compare.sh
        exec cargo run --quiet --release -p loadtest -- compare --help
    fi
    trap stop_probe EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    cargo build --release --workspace
    mkdir -p "$scratch"

    local ringback="$release/ringback --listen 127.0.0.1:{port} --workers 1 --congestion-control cubic --engine"
    local to='--listen 127.0.0.1:{port} --congestion cubic'
    servers=()
    names=()
    offer ring "$ringback ring"
    offer tokio-uring "$ringback tokio-uring"
    offer epoll "$ringback epoll"
    offer raw "tcp:$release/raw-tcp-echo --engine ring $to"
    offer raw-epoll "tcp:$release/raw-tcp-echo --buffer-size 256KiB $to"
    offer tungstenite "$release/tungstenite-echo $to"
    offer tungstenite-batched "$release/tungstenite-echo --batch $to"
    offer fastwebsockets "$release/fastwebsockets-echo $to"
    offer tokio-websockets "$release/tokio-websockets-echo $to"

    # Those of the README, where they are there and nothing else is asked for.
    local options=()
    if ! given --rounds "$@"; then options+=(--rounds 20); fi
    if ! given --slice "$@"; then options+=(--slice 1s); fi
    if ! given --cells "$@"; then options+=(--cells "$cells"); fi
    if ! given --counters "$@" && offered ring; then options+=(--counters ring); fi
    if ! given --baseline "$@" && offered raw; then options+=(--baseline raw); fi
    if ! given --also-to "$@" && offered tungstenite; then options+=(--also-to tungstenite); fi

    # Ours come last: of an option that is given twice, that counts. What an earlier run has left is not to be taken for
    # this one's.
    local page=$scratch/BENCHMARKS.md charts=$scratch/benchmarks
    rm -rf "$page" "$charts" "$scratch/index.html" "$scratch/benchmarks.json"
    "$release/loadtest" compare "${options[@]}" "$@" --markdown "$page" --svg "$charts" \
        --html "$scratch/index.html" --json "$scratch/benchmarks.json" "${servers[@]}"
    publish "$page" "$charts"
    echo "compare.sh: docs/BENCHMARKS.md is written; $scratch/index.html has more charts" >&2
}

# Puts the page and its charts into docs, if all are there.
publish() {
    local page=$1 charts=$2 new=docs/benchmarks.new chart wanted
    wanted=$(sed -n 's/^!\[.*](benchmarks\/\(.*\))$/\1/p' "$page") || wanted=
    if [ -z "$wanted" ]; then
        echo "compare.sh: there is no result, docs stays as it is" >&2
        return 1
    fi
    for chart in $wanted; do
        if ! [ -s "$charts/$chart" ]; then
            echo "compare.sh: there is no $charts/$chart, docs stays as it is" >&2
            return 1
        fi
    done
    rm -rf "$new" "$new.md"
    cp -r "$charts" "$new"
    {
        header
        cat "$page"
    } >"$new.md"
    rm -rf docs/benchmarks
    mv "$new" docs/benchmarks
    mv "$new.md" docs/BENCHMARKS.md
}

# Takes the server NAME=COMMAND, if it can be started here: it says where it listens.
offer() {
    local name=$1 words out line=
    read -r -a words <<<"${2#tcp:}"
    words=("${words[@]//\{port\}/0}")
    # It goes to the log when it cannot say why.
    exec {out}< <(exec "${words[@]}" 2>"$scratch/refused")
    probe=$!
    read -r -t 10 -u "$out" line || true
    stop_probe
    exec {out}<&-
    if [[ $line == listening\ on\ * ]]; then
        servers+=("$name=$2")
        names+=("$name")
    else
        echo "compare.sh: $name is left out, it does not run here: $(tail -n 1 "$scratch/refused")" >&2
    fi
}

stop_probe() {
    if [ -n "${probe:-}" ]; then
        kill "$probe" 2>/dev/null || true
        while kill -0 "$probe" 2>/dev/null; do sleep 0.02; done
        probe=
    fi
}

offered() {
    [[ " ${names[*]} " == *" $1 "* ]]
}

# Whether the option is among the arguments.
given() {
    local option=$1 argument
    shift
    for argument; do
        case $argument in "$option" | "$option"=*) return 0 ;; esac
    done
    return 1
}

header() {
    cat <<'TEXT'
# Benchmarks

Made by `benches/compare.sh`; do not edit. Ratios within one run are what repeats on a machine that others use too; see
"Measured" in the [README](../README.md).

| server | |
|---|---|
| ring, tokio-uring, epoll | ringback on that engine, one worker |
| raw | the yardstick: an echo of the same bytes over TCP, by the ring engine without WebSocket |
| raw-epoll | another one on epoll, with buffers of 256 KiB |
| tungstenite | tokio-tungstenite, one `send` a message |
| tungstenite-batched | the same, flushing once no further message has come |
| fastwebsockets, tokio-websockets | these libraries, as in their own examples |

All but ringback are in `benches/baselines`. Each runs in one thread on one core, the load generator on another. Server CPU
is user and system time. Every byte of every echo was compared.

TEXT
}

main "$@"
