//! What stands in header fields: tokens, lists of them, hosts.

/// Whether a comma-separated list of tokens contains `token`, in any case (RFC 9110 §5.6.1).
pub(super) fn has_token(list: &[u8], token: &str) -> bool {
    list.split(|&byte| byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// `tchar` (RFC 9110 §5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// `token` (RFC 9110 §5.6.2).
pub(crate) fn is_token(word: &[u8]) -> bool {
    !word.is_empty() && word.iter().copied().all(is_token_byte)
}

/// The names of the sub-protocols that a client offers in these lists, one for each header line; `None` when one is no
/// token, or given twice, or where there is a line and no name: they "MUST all be unique" (RFC 6455 §4.1, item 10) and are
/// `1#token` (§4.3). Empty elements between commas have to be passed over (RFC 9110 §5.6.1.2); the head bounds how many.
pub(super) fn parse_subprotocols<'a>(lists: &[&'a [u8]]) -> Option<Vec<&'a [u8]>> {
    let mut names = Vec::new();
    for list in lists {
        for name in list.split(|&byte| byte == b',') {
            // OWS (RFC 9110 §5.6.3).
            let name = name.trim_ascii();
            if name.is_empty() {
                continue;
            }
            if !is_token(name) {
                return None;
            }
            names.push(name);
        }
    }
    if names.is_empty() && !lists.is_empty() {
        return None;
    }
    // 8 KiB have room for four thousand names: each is not held against each.
    names.sort_unstable();
    let is_twice = names.iter().zip(names.iter().skip(1)).any(|(name, next)| name == next);
    (!is_twice).then_some(names)
}

/// `uri-host [ ":" port ]` with a host that is not empty (RFC 9110 §7.2, RFC 3986 §3.2.2).
pub(super) fn is_authority(value: &[u8]) -> bool {
    let Ok(value) = str::from_utf8(value) else {
        return false;
    };
    let (is_host, port) = if let Some(bracketed) = value.strip_prefix('[') {
        let Some((address, port)) = bracketed.split_once(']') else {
            return false;
        };
        (address.parse::<std::net::Ipv6Addr>().is_ok(), port)
    } else {
        let (host, port) = value.split_at(value.find(':').unwrap_or(value.len()));
        (is_reg_name(host), port)
    };
    let is_port = match port.strip_prefix(':') {
        Some(digits) => {
            digits.is_empty() || digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok()
        }
        None => port.is_empty(),
    };
    is_host && is_port
}

/// `reg-name`, not empty: unreserved, sub-delims and percent-encoded bytes.
fn is_reg_name(host: &str) -> bool {
    let mut bytes = host.bytes();
    while let Some(byte) = bytes.next() {
        let good = match byte {
            b'%' => {
                let is_hex = |digit: Option<u8>| digit.is_some_and(|digit| digit.is_ascii_hexdigit());
                is_hex(bytes.next()) && is_hex(bytes.next())
            }
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte),
        };
        if !good {
            return false;
        }
    }
    !host.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_lists_of_different_tokens() {
        let names = |lists: &[&'static str]| {
            let lists: Vec<_> = lists.iter().map(|list| list.as_bytes()).collect();
            parse_subprotocols(&lists).map(|names| names.len())
        };
        for (lists, count) in [
            (&["chat"][..], Some(1)),
            (&["chat, superchat"], Some(2)),
            (&["chat\t ,\tsuperchat", "Chat"], Some(3)),
            (&["v1.example.org,!#$%&'*+-.^_`|~"], Some(2)),
            (&[""], None),
            (&[" "], None),
            (&[", ,", ""], None),
            (&["chat,"], Some(1)),
            (&[",chat"], Some(1)),
            (&["chat,, superchat"], Some(2)),
            (&["chat", ""], Some(1)),
            (&["chat,,chat"], None),
            (&["chat superchat"], None),
            (&["\"chat\""], None),
            (&["chat;q=1"], None),
            (&["a/b"], None),
            (&["ch\u{E4}t"], None),
            (&["chat, chat"], None),
            (&["chat", "superchat", "chat"], None),
        ] {
            assert_eq!(names(lists), count, "{lists:?}");
        }
        assert_eq!(parse_subprotocols(&[]), Some(Vec::new()));
    }
}
