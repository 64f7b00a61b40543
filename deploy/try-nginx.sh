#!/usr/bin/env bash
# Tries deploy/nginx.conf: a server, nginx in front of it with a certificate made for the occasion, an echo over wss.
#
#     deploy/try-nginx.sh target/release/ringback
#
# Exit code: 0 when it works, 1 when not, 77 when nginx, openssl or python3 is not installed. Leaves nothing behind and
# touches no nginx that is there already.
set -euo pipefail

if [ $# -ne 1 ] || [ ! -x "$1" ]; then
    echo "usage: deploy/try-nginx.sh SERVER-BINARY" >&2
    exit 2
fi
server=$(realpath "$1")
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")

# Debian has nginx in a folder that is on root's PATH only.
PATH=$PATH:/usr/sbin:/usr/local/sbin
for command in nginx openssl python3; do
    if ! command -v "$command" >/dev/null; then
        echo "SKIPPED: $command is not installed"
        exit 77
    fi
done

work=$(mktemp -d)
server_pid=
nginx_pid=

main() {
    trap stop EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM

    "$server" --listen 127.0.0.1:0 --engine epoll >"$work/server.out" 2>"$work/server.err" &
    server_pid=$!
    await "$work/server.out" 'ws://' "the server did not say where it listens" "$work/server.err"
    upstream=$(sed -n '1s,.*ws://\([^/ ]*\).*,\1,p' "$work/server.out")

    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
        -keyout "$work/key.pem" -out "$work/certificate.pem" 2>"$work/openssl.err" || {
        cat "$work/openssl.err"
        exit 1
    }
    # nginx cannot choose a port and say which: take one that is free now.
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    configure
    nginx -q -t -c "$work/main.conf" -e "$work/error.log"
    nginx -c "$work/main.conf" -e "$work/error.log" &
    nginx_pid=$!
    await "$work/nginx.pid" '[0-9]' "nginx did not start" "$work/error.log"

    echo "$(nginx -v 2>&1) on port $port, in front of $upstream"
    timeout 60 python3 "$here/try_wss.py" "$port" "$work/certificate.pem" || {
        echo "nginx said:"
        cat "$work/error.log"
        exit 1
    }
}

# The file as it is, with the addresses and the certificate of this test, inside of the least main configuration.
configure() {
    sed -e "s,server 127\.0\.0\.1:9001;,server $upstream;," \
        -e "s,listen 443 ssl;,listen 127.0.0.1:$port ssl;," \
        -e "s,server_name .*;,server_name localhost;," \
        -e "s,\(ssl_certificate  *\)/.*;,\1$work/certificate.pem;," \
        -e "s,\(ssl_certificate_key  *\)/.*;,\1$work/key.pem;," \
        "$here/nginx.conf" >"$work/ringback.conf"
    for piece in "server $upstream;" "listen 127.0.0.1:$port ssl;" "$work/certificate.pem;" "$work/key.pem;"; do
        grep -qF "$piece" "$work/ringback.conf" || {
            echo "deploy/nginx.conf has changed: nothing was replaced by '$piece'"
            exit 1
        }
    done
    mkdir "$work/temp"
    cat >"$work/main.conf" <<-CONF
	daemon off;
	pid $work/nginx.pid;
	error_log $work/error.log warn;
	worker_processes 1;
	events { worker_connections 64; }
	http {
	    access_log off;
	    client_body_temp_path $work/temp/body;
	    proxy_temp_path $work/temp/proxy;
	    fastcgi_temp_path $work/temp/fastcgi;
	    uwsgi_temp_path $work/temp/uwsgi;
	    scgi_temp_path $work/temp/scgi;
	    include $work/ringback.conf;
	}
	CONF
}

# await FILE PATTERN COMPLAINT LOG: waits until the file has the pattern, 10 s at most.
await() {
    for _ in $(seq 100); do
        if grep -qs "$2" "$1"; then
            return
        fi
        sleep 0.1
    done
    echo "$3"
    cat "$4"
    exit 1
}

stop() {
    local pid
    for pid in $nginx_pid $server_pid; do
        kill -TERM "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$work"
}

main
