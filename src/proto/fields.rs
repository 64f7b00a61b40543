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

/// What an `Expect` field asks for (RFC 9110 §10.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expectation {
    /// Nothing.
    None,
    /// `100-continue`, in any case.
    Continue,
    /// Something else, whatever stands beside it.
    Other,
}

/// What a line of `Expect` asks for.
pub(super) fn expectation(list: &[u8]) -> Expectation {
    let members =
        list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty());
    members.fold(Expectation::None, |sum, member| match sum {
        Expectation::None | Expectation::Continue if member.eq_ignore_ascii_case(b"100-continue") => {
            Expectation::Continue
        }
        _ => Expectation::Other,
    })
}

/// Whether an `Accept` names `text/html`, with a weight other than 0 (RFC 9110 §12.5.1). `*/*` is what a client sends that
/// would show it as it is.
pub(super) fn accepts_html(list: &[u8]) -> bool {
    list.split(|&byte| byte == b',').any(|range| {
        let mut parts = range.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        let is_html = parts.next().is_some_and(|range| range.eq_ignore_ascii_case(b"text/html"));
        let is_refused = |part: &[u8]| match part {
            [b'q' | b'Q', b'=', weight @ ..] => weight.iter().all(|byte| matches!(byte, b'0' | b'.')),
            _ => false,
        };
        is_html && !parts.any(is_refused)
    })
}

/// The sub-protocols that a client offers: tokens, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Offers<'a> {
    first: Option<&'a [u8]>,
    sorted: Vec<&'a [u8]>,
}

impl<'a> Offers<'a> {
    /// The one that the client prefers (RFC 6455 §4.1, item 10).
    pub(super) fn first(&self) -> Option<&'a str> {
        // A token is ASCII.
        str::from_utf8(self.first?).ok()
    }

    /// Whether this one is offered.
    pub(super) fn has(&self, name: &str) -> bool {
        self.sorted.binary_search(&name.as_bytes()).is_ok()
    }
}

/// What is wrong with an offer of sub-protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadOffer {
    /// There is a line and no name.
    Empty,
    /// A name holds a byte that no token has.
    Byte(u8),
    /// A name is there twice.
    Twice,
}

impl BadOffer {
    /// What is wrong, and what to do about it.
    pub(super) fn why(self) -> String {
        match self {
            Self::Empty => "the Sec-WebSocket-Protocol field names no sub-protocol: leave it out".into(),
            Self::Byte(byte) => format!(
                "the Sec-WebSocket-Protocol field has the byte 0x{byte:02X} in a name: send tokens, with commas between them"
            ),
            Self::Twice => "the Sec-WebSocket-Protocol field has a name twice: send each name once".into(),
        }
    }
}

/// What a client offers in these lists, one for each header line. The names "MUST all be unique" (RFC 6455 §4.1, item 10)
/// and are `1#token` (§4.3). Empty elements between commas have to be passed over (RFC 9110 §5.6.1.2); the head bounds how
/// many.
pub(super) fn parse_subprotocols<'a>(lists: &[&'a [u8]]) -> Result<Offers<'a>, BadOffer> {
    let mut names = Vec::new();
    for list in lists {
        for name in list.split(|&byte| byte == b',') {
            // OWS (RFC 9110 §5.6.3).
            let name = name.trim_ascii();
            if let Some(&byte) = name.iter().find(|&&byte| !is_token_byte(byte)) {
                return Err(BadOffer::Byte(byte));
            }
            if !name.is_empty() {
                names.push(name);
            }
        }
    }
    if names.is_empty() && !lists.is_empty() {
        return Err(BadOffer::Empty);
    }
    let first = names.first().copied();
    // A head has room for thousands of names: each is not held against each.
    names.sort_unstable();
    let is_twice = names.iter().zip(names.iter().skip(1)).any(|(name, next)| name == next);
    if is_twice { Err(BadOffer::Twice) } else { Ok(Offers { first, sorted: names }) }
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
            parse_subprotocols(&lists).map(|offers| offers.sorted.len()).ok()
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
        assert_eq!(parse_subprotocols(&[]), Ok(Offers::default()));
        let lists = [&b", ,b"[..], b"a"];
        assert_eq!(parse_subprotocols(&lists).map(|offers| offers.first()), Ok(Some("b")));
    }

    #[test]
    fn expectations_are_lists_too() {
        for (list, expected) in [
            ("100-continue", Expectation::Continue),
            ("100-Continue", Expectation::Continue),
            (" , 100-CONTINUE ,", Expectation::Continue),
            ("100-continue, 100-continue", Expectation::Continue),
            ("", Expectation::None),
            (" ,", Expectation::None),
            ("200-ok", Expectation::Other),
            ("100-continue, x=y", Expectation::Other),
            ("x, 100-continue", Expectation::Other),
            ("100-continue;q=1", Expectation::Other),
            ("100 continue", Expectation::Other),
        ] {
            assert_eq!(expectation(list.as_bytes()), expected, "{list}");
        }
    }
}
