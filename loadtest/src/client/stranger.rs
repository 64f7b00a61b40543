//! A server that does not speak HTTP: what its first bytes say of it.

use crate::client::fault::{Fault, Words};
use crate::client::words::excerpt;

/// What an answer is that begins with these bytes, which no HTTP answer does.
pub(crate) fn fault(bytes: &[u8]) -> Fault {
    let beginning = shown(bytes);
    let what = what(bytes).map_or_else(String::new, |what| format!("; {what}"));
    Fault::NotHttp(Box::new(Words(format!("it begins with {beginning}{what}"))))
}

/// What an answer is that begins as HTTP does, and whose head is none.
pub(crate) fn malformed(head: &[u8], error: httparse::Error) -> Fault {
    Fault::NotHttp(Box::new(Words(format!("{error} in the head that begins with {}", shown(head)))))
}

/// The first bytes: a line of text as such, others by their numbers.
fn shown(bytes: &[u8]) -> String {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii();
    if is_text(&line[..line.len().min(TEXT_LEN)]) {
        return format!("\"{}\"", excerpt(line, TEXT_CHARS));
    }
    let numbers: Vec<_> = bytes.iter().take(NUMBERS_MAX).map(|byte| format!("{byte:02x}")).collect();
    let more = if bytes.len() > NUMBERS_MAX { " …" } else { "" };
    format!("the bytes {}{more}", numbers.join(" "))
}

/// Whether people can read it. The last character may be cut.
fn is_text(bytes: &[u8]) -> bool {
    let text = match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        Ok(_) => bytes,
        Err(_) => return false,
    };
    !text.is_empty() && !text.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t')
}

/// Which protocol it is, and what to do.
const fn what(bytes: &[u8]) -> Option<&'static str> {
    Some(match bytes {
        // An alert, or another record of TLS 1.0 and later (RFC 8446 §5.1).
        [0x14..=0x17] | [0x14..=0x17, 0x03, ..] => {
            "this is TLS, which loadtest does not speak: give the address of the server behind it"
        }
        [b'S', b'S', b'H', b'-', ..] => "an SSH server listens there: give another port",
        [b'G', b'E', b'T', b' ', ..] => {
            "the server sends our request back: if it echoes bytes, give tcp://HOST:PORT"
        }
        // SETTINGS, with which every server begins (RFC 9113 §3.4).
        [0, 0, _, 0x04, _, 0, 0, 0, 0, ..] => {
            "this is HTTP/2, and loadtest speaks HTTP/1.1: give another port"
        }
        _ => return None,
    })
}

/// How many bytes the client waits for before it reports: a TLS alert has so many.
pub(crate) const TELLING_LEN: usize = 7;

/// How much of a line the report shows. The client looks at as much to see whether it is text.
const TEXT_CHARS: usize = 80;
const TEXT_LEN: usize = 4 * TEXT_CHARS;

/// How many bytes are told by their numbers.
const NUMBERS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_are_told_and_known_protocols_named() {
        for (bytes, told) in [
            (&b"\x15\x03\x01\x00\x02\x02\x46"[..], "the bytes 15 03 01 00 02 02 46; this is TLS, "),
            (b"\x15", "the bytes 15; this is TLS, "),
            (b"\x16\x03\x03\x00\x7a\x02\x00", "the bytes 16 03 03 00 7a 02 00; this is TLS, "),
            (b"\x15\x04", "the bytes 15 04"),
            (b"SSH-2.0-OpenSSH_9.6\r\nmore", "\"SSH-2.0-OpenSSH_9.6\"; an SSH server listens there"),
            (b"GET /ws HTTP/1.1\r\n", "\"GET /ws HTTP/1.1\"; the server sends our request back"),
            (
                b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64\x00\x04",
                "the bytes 00 00 12 04 00 00 00 00 00 00 03 00 00 00 64 00 …; this is HTTP/2",
            ),
            (b"220 mail ESMTP\r\n", "\"220 mail ESMTP\""),
            (b"-ERR unknown\tcommand\r\n", "\"-ERR unknown\\tcommand\""),
            ("Grüß Gott\n".as_bytes(), "\"Grüß Gott\""),
            (b"\n", "the bytes 0a"),
            (b"\x1b[2J\n", "the bytes 1b 5b 32 4a 0a"),
            (b"\xff\xfe\n", "the bytes ff fe 0a"),
        ] {
            let told = format!("the handshake's answer is not HTTP: it begins with {told}");
            let fault = fault(bytes).to_string();
            assert!(fault.starts_with(&told), "{told}: {fault}");
            assert!(told.contains("; ") || fault == told, "{told}: {fault}");
        }
        let long = fault("ü".repeat(5000).as_bytes()).to_string();
        assert!(long.len() < 300 && long.ends_with("ü…\""), "{long}");
        assert_eq!(
            malformed(b"HTTP/1.1 1\r\n\r\n", httparse::Error::Status).to_string(),
            "the handshake's answer is not HTTP: invalid response status in the head that begins with \"HTTP/1.1 1\""
        );
    }
}
