//! As much of WebDriver (W3C) as the tests of the page need: JSON over HTTP/1.1.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The name of the field that refers to an element (section 12.1).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser that a driver has started.
pub(crate) struct Session {
    port: u16,
    /// The path of its commands.
    path: String,
}

impl Session {
    /// Has the driver on this port of 127.0.0.1 start a browser.
    pub(crate) async fn start(port: u16, capabilities: Value) -> Result<Self, String> {
        let capabilities = json!({ "capabilities": { "alwaysMatch": capabilities } });
        let started = ask(port, "POST", "/session", &capabilities.to_string()).await?;
        let id = started["sessionId"].as_str().ok_or_else(|| format!("no session in {started}"))?;
        Ok(Self { port, path: format!("/session/{id}") })
    }

    /// Ends the browser.
    pub(crate) async fn end(&self) -> Result<(), String> {
        ask(self.port, "DELETE", &self.path, "").await.map(drop)
    }

    pub(crate) async fn open(&self, url: &str) -> Result<(), String> {
        self.post("url", json!({ "url": url })).await.map(drop)
    }

    /// The first element of this selector.
    pub(crate) async fn find(&self, css: &str) -> Result<Element<'_>, String> {
        let found = self.post("element", json!({ "using": "css selector", "value": css })).await?;
        self.element(&found)
    }

    /// The element that has the focus.
    pub(crate) async fn active(&self) -> Result<Element<'_>, String> {
        let found = self.get("element/active").await?;
        self.element(&found)
    }

    /// Runs the body of a function; gives what it returns.
    pub(crate) async fn execute(&self, script: &str) -> Result<Value, String> {
        self.post("execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// A picture of the window, as PNG.
    pub(crate) async fn screenshot(&self) -> Result<Vec<u8>, String> {
        let picture = self.get("screenshot").await?;
        STANDARD.decode(picture.as_str().unwrap_or_default()).map_err(|error| error.to_string())
    }

    /// A command by its path, for those of one driver alone.
    pub(crate) async fn post(&self, command: &str, parameters: Value) -> Result<Value, String> {
        ask(self.port, "POST", &format!("{}/{command}", self.path), &parameters.to_string()).await
    }

    async fn get(&self, command: &str) -> Result<Value, String> {
        ask(self.port, "GET", &format!("{}/{command}", self.path), "").await
    }

    fn element(&self, found: &Value) -> Result<Element<'_>, String> {
        let id = found[ELEMENT].as_str().ok_or_else(|| format!("no element in {found}"))?;
        Ok(Element { session: self, path: format!("element/{id}") })
    }
}

/// An element of the page.
pub(crate) struct Element<'s> {
    session: &'s Session,
    path: String,
}

impl Element<'_> {
    pub(crate) async fn click(&self) -> Result<(), String> {
        self.command("click", json!({})).await
    }

    /// Empties a field.
    pub(crate) async fn clear(&self) -> Result<(), String> {
        self.command("clear", json!({})).await
    }

    pub(crate) async fn send_keys(&self, text: &str) -> Result<(), String> {
        self.command("value", json!({ "text": text })).await
    }

    async fn command(&self, command: &str, parameters: Value) -> Result<(), String> {
        self.session.post(&format!("{}/{command}", self.path), parameters).await.map(drop)
    }
}

/// Sends a command; gives its value, or what the driver has against it.
async fn ask(port: u16, method: &str, path: &str, body: &str) -> Result<Value, String> {
    let (head, body) = exchange(port, method, path, body).await.map_err(|error| error.to_string())?;
    let mut answer: Value = serde_json::from_slice(&body).map_err(|error| format!("{head}: {error}"))?;
    let value = answer["value"].take();
    if head.starts_with("HTTP/1.1 200 ") { Ok(value) } else { Err(value.to_string()) }
}

/// Sends a request over a connection of its own; gives the head and the body of the answer.
async fn exchange(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<(String, Vec<u8>)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    Ok((head, body))
}
