# docker build -t ringback .
# docker run --rm -p 9001:9001 ringback
#
# It listens on all IPv4 addresses, on the port that PORT names, 9001 without it. RINGBACK_LISTEN and --listen replace that.
#
# Docker's default seccomp profile refuses io_uring; ringback then takes the epoll engine and says so in one line. To
# have io_uring: docker run --security-opt seccomp=deploy/seccomp-io_uring.json. `ringback doctor` says what is missing.

FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package ringback --package loadtest --package baselines

FROM debian:bookworm-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin ringback
# The last one is for `loadtest demo`.
COPY --from=build /src/target/release/ringback /src/target/release/loadtest /src/target/release/tungstenite-echo /usr/local/bin/
COPY LICENSE LICENSE-APACHE LICENSE-MIT /usr/share/doc/ringback/
USER 10001:10001
EXPOSE 9001
# Stop accepting, finish what was received, Close(1001), end: give it longer than its drain time with `stop --time`.
STOPSIGNAL SIGTERM
# Defaults by environment, so that the environment and then arguments replace them. The server takes the shell's place.
ENTRYPOINT ["/bin/sh", "-c", "if [ -z \"$RINGBACK_LISTEN\" ]; then port=\"${PORT:-9001}\"; is_port=; case \"$port\" in *[!0-9]*|??????*) ;; *) [ \"$port\" -le 65535 ] && is_port=1;; esac; if [ -z \"$is_port\" ]; then echo \"ringback: PORT=$port: a port is 0 to 65535\" >&2; exit 64; fi; export RINGBACK_LISTEN=\"0.0.0.0:$port\"; fi; exec ringback \"$@\"", "ringback"]
