# shellcheck shell=bash
# Shared by .ci/run and .ci/stress, which source it.

target=${CARGO_TARGET_DIR:-target}
# What a step ends with when this machine lacks what it needs; its last line of output says what.
readonly SKIPPED=77
# What the server ends with when the system refuses the engine asked for (EX_UNAVAILABLE of sysexits.h).
readonly ENGINE_REFUSED=69

passed=()
skipped=()
step_name=
step_group=
watchdog=

# step NAME MINUTES COMMAND...: runs the command or function in a process group of its own, nothing on its stdin,
# and ends the script when it fails or takes longer than that.
step() {
    local name=$1 minutes=$2 log=$target/ci/output began=$SECONDS code=0 tee
    shift 2
    step_name=$name
    printf '\n=== %s\n' "$name"
    mkdir -p "$target/ci"
    rm -f "$log.pipe"
    mkfifo "$log.pipe"
    tee "$log" <"$log.pipe" &
    tee=$!
    set -m
    ("$@") >"$log.pipe" 2>&1 </dev/null &
    step_group=$!
    (sleep $((minutes * 60)) && echo "stopping '$name' after $minutes minutes" && kill -TERM -- "-$step_group") &
    watchdog=$!
    set +m
    wait "$step_group" || code=$?
    # What a step leaves behind must not outlive it, nor hold the pipe open.
    kill -TERM -- "-$step_group" 2>/dev/null || true
    step_group=
    kill -TERM -- "-$watchdog" 2>/dev/null || true
    wait "$watchdog" 2>/dev/null || true
    watchdog=
    wait "$tee"
    local took=$((SECONDS - began))
    case $code in
    0)
        passed+=("$name")
        printf -- '--- %s: passed in %s s\n' "$name" "$took"
        ;;
    "$SKIPPED")
        skip "$name" "$(tail -n 1 "$log")"
        ;;
    *)
        printf -- '--- %s: FAILED with code %s after %s s\n' "$name" "$code" "$took"
        exit 1
        ;;
    esac
    step_name=
}

# skip NAME REASON: notes that something was not run, for the closing lines.
skip() {
    skipped+=("$1: ${2#SKIPPED: }")
    printf -- '--- %s: SKIPPED, %s\n' "$1" "${2#SKIPPED: }"
}

# The EXIT trap: stops the step under way and says what ran.
finish() {
    local code=$?
    trap - EXIT
    # A subshell that is stopped before it has dropped its parent's traps comes by here too.
    [ "$BASHPID" -eq $$ ] || exit "$code"
    local group
    for group in $step_group $watchdog; do
        kill -TERM -- "-$group" 2>/dev/null || true
    done
    printf '\n'
    if [ ${#skipped[@]} -gt 0 ]; then
        printf 'Not run on this machine:\n'
        printf '  %s\n' "${skipped[@]}"
    fi
    if [ "$code" -eq 0 ]; then
        printf 'Passed in %s s: %s steps, %s skipped.\n' "$SECONDS" "${#passed[@]}" "${#skipped[@]}"
    else
        printf 'FAILED after %s s at: %s\n' "$SECONDS" "${step_name:-no step}"
    fi
    exit "$code"
}

# start_server ENGINE: starts the release server on a free port and sets `server_pid` and `server_url`. Ends the
# step with SKIPPED when the system refuses the engine. To be called in a step: the server ends with it.
start_server() {
    local out=$target/ci/server.out err=$target/ci/server.err code=0
    "$target/release/ringback" --listen 127.0.0.1:0 --engine "$1" >"$out" 2>"$err" &
    server_pid=$!
    trap 'kill -KILL "$server_pid" 2>/dev/null || true' EXIT
    for _ in $(seq 100); do
        server_url=$(sed -n '1s/.*\(ws:[^ ]*\).*/\1/p' "$out")
        if [ -n "$server_url" ]; then
            return
        fi
        kill -0 "$server_pid" 2>/dev/null || break
        sleep 0.1
    done
    if kill -0 "$server_pid" 2>/dev/null; then
        echo "the server did not say within 10 s where it listens"
        cat "$err"
        exit 1
    fi
    wait "$server_pid" || code=$?
    tail -n 20 "$err"
    # Every Linux has epoll.
    if [ "$code" -eq "$ENGINE_REFUSED" ] && [ "$1" != epoll ]; then
        exit "$SKIPPED"
    fi
    echo "the server ended with code $code before it listened"
    exit 1
}

# Ends the server as an operator would: SIGTERM, drain, exit code 0.
stop_server() {
    local code=0
    kill -TERM "$server_pid" 2>/dev/null || true
    for _ in $(seq 300); do
        kill -0 "$server_pid" 2>/dev/null || break
        sleep 0.1
    done
    if kill -0 "$server_pid" 2>/dev/null; then
        echo "the server did not end within 30 s of SIGTERM"
        exit 1
    fi
    wait "$server_pid" || code=$?
    if [ "$code" -ne 0 ]; then
        echo "the server ended with code $code"
        tail -n 20 "$target/ci/server.err"
        exit 1
    fi
}

# has COMMAND...: whether the command runs here; its output is thrown away.
has() {
    "$@" >/dev/null 2>&1 </dev/null
}
