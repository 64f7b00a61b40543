//! Tests of what comes first: a refusal, greetings, and what nobody asked for.

use super::*;

/// A client whose server greets so many times, and its answer to the handshake.
fn greeted(greetings: u32) -> (Harness, Vec<u8>) {
    let wishes = Wishes { greetings, ..Wishes::default() };
    let mut harness = Harness::with("ws://h/ws", Settings::fixed(Kind::Text, SIZE), &wishes);
    harness.send();
    let accept = harness.accept();
    (harness, accept)
}

#[test]
fn greetings_are_read_over_before_anything_is_sent() {
    let (_, accept) = greeted(2);
    let hello = [
        frame(true, OpCode::Text, b"hello"),
        frame(true, OpCode::Ping, b"p"),
        frame(true, OpCode::Binary, b""),
    ];
    at_every_cut(&[accept, hello.concat()].concat(), |pieces| {
        let (mut harness, _) = greeted(2);
        for piece in pieces {
            assert!(!harness.client.is_open());
            harness.receive(piece).expect("a greeting");
        }
        assert!(harness.client.is_open() && harness.client.has_output(), "the ping is answered");
        harness.push_three();
    });
}

#[test]
fn more_or_fewer_greetings_than_announced_are_told() {
    let (mut harness, accept) = greeted(2);
    harness.receive(&[accept, frame(true, OpCode::Text, b"hello")].concat()).expect("one of two");
    assert!(harness.client.is_opening());
    assert_eq!(harness.client.give_up(), Some((Fault::GreetingMissing { came: 1, of: 2 }, 1)));

    let (_, accept) = greeted(1);
    let two =
        [accept, frame(true, OpCode::Text, b"hello"), frame(true, OpCode::Text, b"you\x1b[2J")].concat();
    at_every_cut(&two, |pieces| {
        let (mut harness, _) = greeted(1);
        let fault = pieces.iter().try_for_each(|piece| harness.receive(piece)).expect_err("one too many");
        let told = "a text message came that answers nothing, 7 bytes: \"you\\u{1b}[2J\"; of a server that greets, --skip N";
        assert!(fault.to_string().starts_with(told), "{fault}");
    });
}

#[test]
fn words_that_do_not_come_are_not_awaited_for_ever() {
    for end in
        [Client::receive_end, |client: &mut Client| client.receive_error(std::io::ErrorKind::ConnectionReset)]
    {
        let (mut harness, accept) = greeted(0);
        harness.receive(&[&accept[..], b"\x81\x7E\x01\x00begun"].concat()).expect("more may come");
        let told = "a text message came that answers nothing, 256 bytes: \"begun…\"";
        let fault = end(&mut harness.client).expect_err("it was not asked for");
        assert!(fault.to_string().starts_with(told), "{fault}");
    }
    let (mut harness, accept) = greeted(0);
    harness.receive(&[&accept[..], b"\x82\x05ab"].concat()).expect("more may come");
    harness.client.push(1, 100);
    let (fault, count) = harness.client.give_up().expect("it was not asked for");
    assert_eq!((fault.kind().as_str(), count), ("unasked_message", 1));
}

#[test]
fn a_refusal_is_told_with_what_has_come_of_its_body() {
    for (end, kind) in [(true, "the end"), (false, "the time")] {
        let mut harness = Harness::text();
        harness.send();
        harness.receive(b"HTTP/1.1 500 X\r\nContent-Length: 100\r\n\r\nhalf a li").expect("more may come");
        let fault = match end {
            true => harness.client.receive_end().expect_err("refused"),
            false => harness.client.give_up().expect("refused").0,
        };
        assert_eq!(fault.to_string(), "the handshake was refused with status 500 (\"half a li\")", "{kind}");
    }
}
