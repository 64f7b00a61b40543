//! What `GET /` answers.

/// A short text that says what this is and how to connect.
#[must_use]
pub(super) fn text(path: &str) -> String {
    format!(
        "ringback {version}: a WebSocket echo server.\n\
         \n\
         It answers every message with the same message. Connect to the path {path} of this address, for instance\n\
         \n\
         \x20 from a browser's console:\n\
         \x20   const s = new WebSocket(location.origin.replace('http', 'ws') + '{path}');\n\
         \x20   s.onmessage = e => console.log(e.data); s.onopen = () => s.send('hello');\n\
         \n\
         \x20 from a shell:\n\
         \x20   websocat ws://HOST:PORT{path}\n",
        version = env!("CARGO_PKG_VERSION"),
    )
}
