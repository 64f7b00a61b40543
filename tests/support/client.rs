//! Frames as a client writes them (RFC 6455 §5.2), by hand: the tests don't trust the encoder they test.

pub(crate) const FIN: u8 = 0x80;
pub(crate) const CONT: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

/// Every opcode that is not reserved.
pub(crate) const OPCODES: [u8; 6] = [TEXT, BINARY, CONT, PING, PONG, CLOSE];

/// A masked frame with this first byte, its length in the shortest form.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len() as u64);
    let key: [u8; 4] = frame[frame.len() - 4..].try_into().unwrap();
    frame.extend(masked(payload, key));
    frame
}

/// The header of [`frame`], with a key that depends on both.
pub(crate) fn header(first: u8, payload_len: u64) -> Vec<u8> {
    let mut header = header_with_length(first, 0x80, &length_field(payload_len));
    let [.., a, b, c] = payload_len.wrapping_mul(0x9E37_79B9).to_be_bytes();
    header.extend_from_slice(&[a | 4, b ^ first, c, 0xD2 - first]);
    header
}

/// First byte, mask bit and a length field of 1, 3 or 9 bytes as given, no key.
pub(crate) fn header_with_length(first: u8, mask_bit: u8, length: &[u8]) -> Vec<u8> {
    let mut header = vec![first, mask_bit | length[0]];
    header.extend_from_slice(&length[1..]);
    header
}

/// Text in one frame.
pub(crate) fn text(text: &str) -> Vec<u8> {
    frame(FIN | TEXT, text.as_bytes())
}

/// A close frame.
pub(crate) fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason);
    frame(FIN | CLOSE, &payload)
}

/// RFC 6455 §5.3, octet by octet.
pub(crate) fn masked(payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    payload.iter().enumerate().map(|(i, octet)| octet ^ key[i % 4]).collect()
}

/// The payload length in its shortest form, without the mask bit.
fn length_field(payload_len: u64) -> Vec<u8> {
    let octets = payload_len.to_be_bytes();
    match payload_len {
        0..=125 => octets[7..].to_vec(),
        126..=0xFFFF => [&[126], &octets[6..]].concat(),
        _ => [&[127], &octets[..]].concat(),
    }
}
