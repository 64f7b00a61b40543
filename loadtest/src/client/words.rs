//! Words of a server, to be told.

/// What a server sent, as text that is safe to print: at most so many characters, what is not printable escaped, and `…`
/// where more was sent.
pub(crate) fn excerpt(bytes: &[u8], chars: usize) -> String {
    // A character has at most four bytes.
    let beginning = &bytes[..bytes.len().min(chars * 4 + 4)];
    let text = String::from_utf8_lossy(beginning);
    let mut excerpt: String = text.chars().take(chars).flat_map(printable).collect();
    if beginning.len() < bytes.len() || text.chars().nth(chars).is_some() {
        excerpt.push('…');
    }
    excerpt
}

/// A character, escaped where a terminal would not show it. Quotes and backslashes are as they are.
fn printable(c: char) -> impl Iterator<Item = char> {
    let is_plain = matches!(c, '"' | '\'' | '\\');
    let escaped = (!is_plain).then(|| c.escape_debug());
    is_plain.then_some(c).into_iter().chain(escaped.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_printable_and_bounded() {
        for (bytes, told) in [
            (&b"hello"[..], "hello"),
            (b"", ""),
            (b"0123456789", "0123456789"),
            (b"0123456789x", "0123456789…"),
            (b"a\r\n\x1b[1m\0", "a\\r\\n\\u{1b}[1m\\0"),
            (b"\"it's\"", "\"it's\""),
            (b"\xff\xfe", "\u{fffd}\u{fffd}"),
            ("äöü€😀".as_bytes(), "äöü€😀"),
            ("a\u{202e}b".as_bytes(), "a\\u{202e}b"),
        ] {
            assert_eq!(excerpt(bytes, 10), told);
        }
        assert!(excerpt(&[0; 1 << 20], 100).len() < 1000);
    }
}
