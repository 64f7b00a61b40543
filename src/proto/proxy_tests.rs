//! Headers, good and bad, each cut at every byte; and random ones, as a writer of its own has them.

use proptest::prelude::*;

use super::*;

const ANY: Versions = Versions { v1: true, v2: true };

/// Feeds a stream in pieces of `len` bytes; what comes of it, with `consumed` counted from the beginning.
fn feed(stream: &[u8], versions: Versions, first: usize, len: usize) -> Step {
    let mut header = Header::new(versions);
    let (first, rest) = stream.split_at(first.min(stream.len()));
    let mut before = 0;
    for piece in std::iter::once(first).chain(rest.chunks(len)) {
        match header.receive(piece) {
            Step::More => before += piece.len(),
            Step::Done { source, consumed } => return Step::Done { source, consumed: before + consumed },
            refused @ Step::Refused(_) => return refused,
        }
    }
    Step::More
}

/// Whole, cut at every byte, and byte by byte, with bytes behind it and without: always the same.
fn check(header: &[u8], versions: Versions, expected: &Step) {
    let followed = [header, b"GET /ws HTTP/1.1\r\n\r\n"].concat();
    for stream in [header, &followed] {
        let shown = || stream.escape_ascii().to_string();
        assert_eq!(feed(stream, versions, 0, stream.len().max(1)), *expected, "{}", shown());
        assert_eq!(feed(stream, versions, 0, 1), *expected, "byte by byte: {}", shown());
        for cut in 0..header.len().min(600) {
            assert_eq!(
                feed(stream, versions, cut, stream.len().max(1)),
                *expected,
                "cut at {cut}: {}",
                shown()
            );
        }
    }
    if let Step::Done { .. } = expected {
        for cut in 0..header.len() {
            assert_eq!(feed(&header[..cut], versions, 0, header.len()), Step::More, "only {cut} bytes");
        }
    }
}

fn good(header: &[u8], source: Source) {
    check(header, ANY, &Step::Done { source, consumed: header.len() });
}

fn bad(header: &[u8], error: ProxyError) {
    check(header, ANY, &Step::Refused(error));
}

fn client(address: &str) -> Source {
    Source::Client(address.parse().expect("an address"))
}

#[test]
fn lines_as_the_specification_has_them() {
    let longest = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                   65535 65535\r\n";
    assert_eq!(longest.len(), V1_MAX);
    for (line, source) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", client("192.0.2.1")),
        ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", client("255.255.255.255")),
        ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", client("0.0.0.0")),
        ("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", client("2001:db8::1")),
        ("PROXY TCP6 ::FFFF:c000:201 :: 1 2\r\n", client("::ffff:192.0.2.1")),
        ("PROXY UNKNOWN\r\n", Source::Peer),
        ("PROXY UNKNOWN whatever \x00\u{E4} there is\r\n", Source::Peer),
        (longest, Source::Peer),
    ] {
        good(line.as_bytes(), source);
    }
}

#[test]
fn lines_that_are_not() {
    for line in [
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 1\r\n",
        "PROXY  TCP4 192.0.2.1 198.51.100.2 56324 443\r\n",
        "PROXY TCP4  192.0.2.1 198.51.100.2 56324 443\r\n",
        "PROXY TCP4\t192.0.2.1 198.51.100.2 56324 443\r\n",
        "PROXY tcp4 192.0.2.1 198.51.100.2 56324 443\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.2 56324 443\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.2 56324 443\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.2 56324 443\r\n",
        "PROXY TCP4 192.0.2 198.51.100.2 56324 443\r\n",
        "PROXY TCP4 ::1 ::1 56324 443\r\n",
        "PROXY TCP4 ::ffff:192.0.2.1 198.51.100.2 56324 443\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 56324 443\r\n",
        "PROXY TCP6 ::1 192.0.2.1 56324 443\r\n",
        "PROXY TCP6 ::ffff:192.0.2.1 ::1 56324 443\r\n",
        "PROXY TCP6 1::2::3 ::1 56324 443\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 056324 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +56324 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 -1 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 00\r\n",
        "PROXY \r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\u{E4}\r\n",
    ] {
        bad(line.as_bytes(), ProxyError::Line);
    }
    bad(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; V1_MAX]].concat(), ProxyError::TooLong);
    // One byte more than there may be, its LF.
    bad(format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_MAX - 15)).as_bytes(), ProxyError::TooLong);
    for other in
        ["GET /ws HTTP/1.1\r\n", "P", "PROX", "PROXYTCP4", "POST / HTTP/1.1\r\n", "proxy TCP4 ", "\n"]
    {
        let step = feed(format!("{other}______").as_bytes(), ANY, 0, 1);
        assert_eq!(step, Step::Refused(ProxyError::NotProxy), "{other}");
    }
    check(
        b"PROXY TCP4 192.0.2.1 ",
        Versions { v1: false, v2: true },
        &Step::Refused(ProxyError::OtherVersion),
    );
    check(b"POST / HTTP/1.1", Versions { v1: false, v2: true }, &Step::Refused(ProxyError::NotProxy));
}

/// A binary header as a proxy writes it.
fn v2(command: u8, family: u8, addresses: &[u8], fields: &[u8]) -> Vec<u8> {
    let len = u16::try_from(addresses.len() + fields.len()).expect("short");
    [SIGNATURE.as_slice(), &[0x20 | command, family], &len.to_be_bytes(), addresses, fields].concat()
}

fn v4() -> Vec<u8> {
    [[192, 0, 2, 1], [198, 51, 100, 2], [0xDC, 0x04, 0x01, 0xBB]].concat()
}

fn field(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &u16::try_from(value.len()).expect("short").to_be_bytes()[..], value].concat()
}

/// A header whose field at `place` of the fields is a checksum: filled in by the naive definition.
fn with_checksum(before: &[u8], after: &[u8]) -> Vec<u8> {
    let fields = [before, &field(CRC32C, &[0; 4]), after].concat();
    let mut header = v2(1, 0x11, &v4(), &fields);
    // CRC-32C, bit by bit (RFC 3720, appendix B.4).
    let mut crc = u32::MAX;
    for &byte in &header {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
        }
    }
    let place = V2_HEAD + 12 + before.len() + 3;
    header[place..place + 4].copy_from_slice(&(!crc).to_be_bytes());
    header
}

#[test]
fn binary_headers_as_the_specification_has_them() {
    let v6 = [&"2001:db8::1".parse::<Ipv6Addr>().expect("one").octets()[..], &[9; 20]].concat();
    let fields = [field(0x04, &[0; 9]), field(0xE0, b""), field(0x20, &[1, 0, 0, 0, 0])].concat();
    for (header, source) in [
        (v2(1, 0x11, &v4(), &[]), client("192.0.2.1")),
        (v2(1, 0x12, &v4(), &[]), client("192.0.2.1")),
        (v2(1, 0x21, &v6, &[]), client("2001:db8::1")),
        (v2(1, 0x22, &v6, &fields), client("2001:db8::1")),
        (v2(1, 0x31, &[b'/'; 216], &[]), Source::Unix),
        (v2(1, 0x32, &[0; 216], &fields), Source::Unix),
        (v2(1, 0x00, &[], &[]), Source::Peer),
        (v2(1, 0x00, &[], &fields), Source::Peer),
        (v2(0, 0x00, &[], &[]), Source::Peer),
        // Whatever stands in the header of the proxy's own connection is not looked at.
        (v2(0, 0x11, &v4(), &[1, 2, 3]), Source::Peer),
        (v2(0, 0xFF, &[7; 5], &[]), Source::Peer),
        (v2(1, 0x11, &v4(), &field(0xE1, &vec![7; V2_BODY_MAX - 15])), client("192.0.2.1")),
        (with_checksum(&[], &[]), client("192.0.2.1")),
        (with_checksum(&field(0x04, b"before"), &field(0x05, b"behind")), client("192.0.2.1")),
    ] {
        good(&header, source);
    }
}

#[test]
fn binary_headers_that_are_not() {
    for command in [0x10, 0x2F, 0x22, 0x30, 0x01, 0xFF] {
        let mut header = v2(1, 0x11, &v4(), &[]);
        header[12] = command;
        bad(&header, ProxyError::Command);
    }
    for family in [0x01, 0x02, 0x10, 0x13, 0x20, 0x23, 0x30, 0x33, 0x41, 0xFF] {
        bad(&v2(1, family, &[0; 216], &[]), ProxyError::Family);
    }
    bad(&v2(1, 0x11, &[0; 11], &[]), ProxyError::Addresses);
    bad(&v2(1, 0x21, &[0; 35], &[]), ProxyError::Addresses);
    bad(&v2(1, 0x31, &[0; 215], &[]), ProxyError::Addresses);
    for fields in [&[4][..], &[4, 0], &[4, 0, 1], &[4, 0xFF, 0xFF, 1, 2], &[4, 0, 0, 4]] {
        bad(&v2(1, 0x11, &v4(), fields), ProxyError::Field);
    }
    bad(&v2(1, 0x11, &v4(), &vec![0; V2_BODY_MAX - 11]), ProxyError::TooLong);
    bad(&v2(0, 0x00, &vec![0; V2_BODY_MAX + 1], &[]), ProxyError::TooLong);
    bad(&v2(1, 0x11, &v4(), &field(CRC32C, &[0; 3])), ProxyError::Checksum);
    let checked = with_checksum(&[], &field(0x05, b"x"));
    for at in [0x0F_usize, 16, 20, 30, 34, checked.len() - 1] {
        let mut spoilt = checked.clone();
        spoilt[at] ^= 1;
        let step = feed(&[&spoilt[..], &[0; 8]].concat(), ANY, 0, 1);
        assert!(matches!(step, Step::Refused(_)), "{at}: {step:?}");
    }
    let twice = [&checked[V2_HEAD + 12..], &checked[V2_HEAD + 12..V2_HEAD + 19]].concat();
    bad(&v2(1, 0x11, &v4(), &twice), ProxyError::Checksum);
    bad(&[&SIGNATURE[..11], b"X"].concat(), ProxyError::NotProxy);
    check(&SIGNATURE[..], Versions { v1: true, v2: false }, &Step::Refused(ProxyError::OtherVersion));
}

#[test]
fn what_is_kept_is_no_more_than_a_header() {
    let mut header = Header::new(ANY);
    let whole = v2(1, 0x11, &v4(), &field(0xE1, &vec![7; V2_BODY_MAX - 15]));
    assert_eq!(header.receive(&whole[..20]), Step::More);
    let rest = [&whole[20..], &vec![1; 1 << 20]].concat();
    assert!(matches!(header.receive(&rest), Step::Done { consumed, .. } if consumed == whole.len() - 20));
    assert_eq!(header.bytes.capacity(), 0, "nothing is kept");
}

proptest! {
    #[test]
    fn what_a_writer_writes_is_read(
        source: IpAddr,
        destination: [u8; 16],
        ports: (u16, u16),
        fields in prop::collection::vec((0x04_u8.., prop::collection::vec(any::<u8>(), 0..40)), 0..4),
        cut in 0_usize..400,
    ) {
        let (line, family, addresses) = match source {
            IpAddr::V4(v4) => {
                let to = IpAddr::from(*destination.first_chunk::<4>().expect("16 bytes"));
                (format!("PROXY TCP4 {v4} {to} {} {}\r\n", ports.0, ports.1), 0x11, [&v4.octets()[..], &[8; 8]].concat())
            }
            IpAddr::V6(v6) => {
                let groups = |v6: Ipv6Addr| v6.segments().map(|group| format!("{group:x}")).join(":");
                let to = groups(Ipv6Addr::from(destination));
                let line = format!("PROXY TCP6 {} {to} {} {}\r\n", groups(v6), ports.0, ports.1);
                (line, 0x21, [&v6.octets()[..], &[8; 20]].concat())
            }
        };
        let fields: Vec<u8> = fields.iter().flat_map(|(kind, value)| field(*kind, value)).collect();
        for header in [line.into_bytes(), v2(1, family, &addresses, &fields)] {
            let stream = [&header[..], b"behind"].concat();
            let expected = Step::Done { source: Source::Client(source), consumed: header.len() };
            prop_assert_eq!(feed(&stream, ANY, cut, 1000), expected);
        }
    }
}
