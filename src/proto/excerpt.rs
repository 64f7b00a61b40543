//! What a log may quote of a request: bounded, and of printable ASCII only, whatever the peer has sent.

use std::fmt::Write as _;

use super::handshake::HEAD_MAX_RANGE;

/// How many bytes of a line or value are quoted.
const QUOTED_MAX: usize = 128;

/// The request line, as far as it has come; `None` where nothing has.
#[must_use]
pub fn request_line(head: &[u8]) -> Option<String> {
    let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    (!line.is_empty()).then(|| quoted(line))
}

/// The first `Origin` of a head.
#[must_use]
pub fn origin(head: &[u8]) -> Option<String> {
    let head = head.get(..*HEAD_MAX_RANGE.end()).unwrap_or(head);
    head.split(|&byte| byte == b'\n').skip(1).find_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let (name, value) = line.split_at_checked(colon)?;
        name.eq_ignore_ascii_case(b"origin").then(|| quoted(value.strip_prefix(b":").unwrap_or(value)))
    })
}

/// Bytes as a log may have them: those that are not printable ASCII, quotes and backslashes are written as %XX, so that
/// neither a terminal nor whoever parses the log takes them for anything else. `...` stands where it was cut.
fn quoted(bytes: &[u8]) -> String {
    let bytes = bytes.trim_ascii();
    let shown = bytes.get(..QUOTED_MAX).unwrap_or(bytes);
    let mut text = String::with_capacity(shown.len() + 3);
    for &byte in shown {
        if matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\') {
            text.push(char::from(byte));
        } else {
            let written = write!(text, "%{byte:02X}");
            debug_assert!(written.is_ok(), "writing to a String does not fail");
        }
    }
    if shown.len() < bytes.len() {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_one_short_line_of_printable_ascii() {
        let wild: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        for head in [
            &wild[..],
            b"GET /\x1b[31m\"\\\xE2\x80\xAE HTTP/1.1\r\nOrigin: \x07\x1b]0;x\x07\r\n",
            b"\0",
            b"x",
        ] {
            for text in [request_line(head), origin(head)].into_iter().flatten() {
                assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text}");
                assert!(!text.contains(['"', '\\']) && text.len() <= 3 * QUOTED_MAX + 3, "{text}");
            }
        }
        let head =
            b"GET /\x1b?a=\"b HTTP/1.1\r\nHost: a\r\noRIGIN:  https://a.example\t\r\nOrigin: b\r\n\r\n";
        assert_eq!(request_line(head).as_deref(), Some("GET /%1B?a=%22b HTTP/1.1"));
        assert_eq!(origin(head).as_deref(), Some("https://a.example"));
        assert_eq!((request_line(b""), origin(b"Origin: a")), (None, None));
        let long = request_line(&[b'x'; 1000]).expect("a line");
        assert_eq!(long, format!("{}...", "x".repeat(QUOTED_MAX)));
    }
}
