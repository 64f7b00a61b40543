//! Close frames: codes and their payload (RFC 6455 §5.5.1, §7.4).

use super::ProtocolError;

/// The purpose of the connection is fulfilled.
pub const NORMAL: u16 = 1000;
/// The endpoint is going away: the server drains.
pub const GOING_AWAY: u16 = 1001;
/// The peer broke the protocol.
pub const PROTOCOL_ERROR: u16 = 1002;
/// Text that is not UTF-8.
pub const INVALID_PAYLOAD: u16 = 1007;
/// The peer breaks a rule of the server: it sends on and reads nothing.
pub const POLICY_VIOLATION: u16 = 1008;
/// A message over the limit.
pub const MESSAGE_TOO_BIG: u16 = 1009;

/// Whether `code` may stand in a close frame: 1000–1003, 1007–1014 (RFC 6455 §7.4.1 and the IANA registry),
/// 3000–4999 (§7.4.2).
#[must_use]
pub const fn is_valid_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Judges the unmasked payload of a close frame and gives its code, `None` when it is empty.
///
/// # Errors
///
/// One byte, a code that must not be sent, and a reason that is not UTF-8 (RFC 6455 §5.5.1).
pub fn parse(payload: &[u8]) -> Result<Option<u16>, ProtocolError> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(ProtocolError::CloseTruncated) };
    };
    let code = u16::from_be_bytes(*code);
    if !is_valid_code(code) {
        return Err(ProtocolError::CloseCode(code));
    }
    if simdutf8::basic::from_utf8(reason).is_err() {
        return Err(ProtocolError::InvalidUtf8);
    }
    Ok(Some(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_close_code_is_judged_by_the_list() {
        let mut valid = Vec::new();
        for code in 0..=u16::MAX {
            let judged = parse(&code.to_be_bytes());
            match judged {
                Ok(Some(parsed)) => {
                    assert_eq!(parsed, code);
                    valid.push(code);
                }
                other => assert_eq!(other, Err(ProtocolError::CloseCode(code))),
            }
        }
        let expected: Vec<u16> = (1000..=1003).chain(1007..=1014).chain(3000..=4999).collect();
        assert_eq!(valid, expected);
    }

    #[test]
    fn lengths_and_reasons() {
        assert_eq!(parse(b""), Ok(None));
        assert_eq!(parse(b"\x03"), Err(ProtocolError::CloseTruncated));
        assert_eq!(parse(b"\x03\xe8bye"), Ok(Some(NORMAL)));
        assert_eq!(parse(b"\x03\xe8\xff"), Err(ProtocolError::InvalidUtf8));
        assert_eq!(parse(b"\x03\xe8\xc3"), Err(ProtocolError::InvalidUtf8), "a cut code point is not text");
    }
}
