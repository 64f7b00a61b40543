//! Memory is for bytes that came and wait to be sent, and for nothing else.

use std::io::Write as _;
use std::thread;

use ringback::proto::frame::OpCode;

use crate::common::{Server, frame, header, volume};
use crate::{KIB, MIB, Replies, connections, on_each_engine};

on_each_engine! {
    #[ignore = "volume: 10,000 frames of 1 GiB + 1 byte begun, 5 s"]
    announced_lengths_take_no_memory,
    #[ignore = "volume: 10^6 empty continuations, 3 s"]
    empty_fragments_take_no_memory,
    #[ignore = "volume: 10^6 continuations of a byte, 3 s"]
    one_byte_fragments_take_no_memory,
}

/// RUSTSEC-2022-0035 and its like.
fn announced_lengths_take_no_memory(engine: &str) {
    let count = connections(volume(10_000));
    // One byte of a frame that is gathered; none of a frame that streams, for it would be echoed at once.
    for (whole_frame_max, came) in [("2GiB", &b"x"[..]), ("64KiB", b"")] {
        let server = Server::start(engine, &["--whole-frame-max", whole_frame_max, "--unsent-total", "2GiB"]);
        let mut clients: Vec<_> = (0..count).map(|_| server.connect()).collect();
        let idle = server.resident();
        let mut bytes = header(true, OpCode::Binary, (1 << 30) + 1);
        bytes.extend_from_slice(came);
        for client in &mut clients {
            client.send_bytes(&bytes);
        }
        server.wait_for_counter("receives", count as u64);
        let grown = server.resident().saturating_sub(idle);
        println!(
            "{engine}: {} bytes for each of {count} frames announced, whole up to {whole_frame_max}",
            grown / count as u64
        );
        // What does not depend on their number: buffers of the pool, and what the allocator keeps at hand.
        assert!(
            grown <= count as u64 * KIB + MIB / 2,
            "{grown} bytes for {count} frames of which little came"
        );
    }
}

fn empty_fragments_take_no_memory(engine: &str) {
    fragments_take_no_memory(engine, b"");
}

fn one_byte_fragments_take_no_memory(engine: &str) {
    fragments_take_no_memory(engine, b"x");
}

/// One message of very many fragments with this payload each.
fn fragments_take_no_memory(engine: &str, payload: &[u8]) {
    let batches = volume(1_000_000).div_ceil(1000);
    // Replies that wait for the client are memory too; so few of them.
    let server = Server::start(engine, &["--unsent-limit", "64KiB"]);
    let mut client = server.connect();
    let mut replies = Replies::new(client.stream.try_clone().expect("a second handle"));
    let batch = frame(false, OpCode::Continuation, payload).repeat(1000);
    let sending = thread::spawn(move || {
        client.send_bytes(&frame(false, OpCode::Text, payload_of_first()));
        for _ in 0..batches {
            client.stream.write_all(&batch).expect("the server takes it");
        }
        client.send_bytes(&frame(true, OpCode::Continuation, b""));
        client
    });
    let (first, text) = replies.next_frame().expect("the first fragment");
    assert_eq!((first.opcode, first.fin, text), (OpCode::Text, false, payload_of_first()));
    let mut residents = Vec::new();
    for batch in 0..batches {
        for _ in 0..1000 {
            let (header, echo) = replies.next_frame().expect("a fragment");
            assert_eq!((header.opcode, header.fin, echo), (OpCode::Continuation, false, payload));
        }
        if batch % (batches / 10).max(1) == 0 {
            residents.push(server.resident());
        }
    }
    let (last, rest) = replies.next_frame().expect("the last fragment");
    assert_eq!((last.opcode, last.fin, rest), (OpCode::Continuation, true, &b""[..]));
    let mut client = sending.join().expect("all was sent");
    client.echo(OpCode::Text, b"nothing came behind them");
    assert_eq!(server.counter("texts"), 2);
    assert_eq!(server.counter("frames"), 1000 * batches as u64 + 3);
    let (least, most) = (residents.iter().min().expect("some"), residents.iter().max().expect("some"));
    println!(
        "{engine}: {batches}000 fragments of {} bytes in {} to {} KiB",
        payload.len(),
        least / KIB,
        most / KIB
    );
    assert!(most - least < 2 * MIB, "memory goes from {least} to {most} bytes");
}

const fn payload_of_first() -> &'static [u8] {
    b"first"
}
