//! Tells every client each second how many there are, on ringback's engine (docs/ENGINE.md): `cargo run --example ticker`.

use std::{io, net::IpAddr, net::TcpListener, rc::Rc, time::Duration};

use ringback::engine::{self, Handler, Received, Service, Wire};
use ringback::proto::frame::{HEADER_MAX, Header, OpCode};
use ringback::proto::handshake::{Handshake, Rules, Step};

/// Each client holds it too, and so it knows how many there are.
struct Ticker(Rc<()>);

impl Service for Ticker {
    type Handler = Client;
    fn accepted(&mut self, _: Option<IpAddr>) -> Client {
        Client(Rc::clone(&self.0), Some(Handshake::new()))
    }
}

/// One of them, and its handshake until that is done.
struct Client(Rc<()>, Option<Handshake>);

impl Handler for Client {
    fn on_received(&mut self, wire: &mut Wire<'_>, received: Received) -> u32 {
        let (Some(handshake), Received::Bytes(buffer, range)) = (&mut self.1, received) else {
            wire.send_copy(&[0x88, 0]); // whatever a client says, it is a goodbye
            wire.finish();
            return 1;
        };
        match handshake.receive(&buffer.bytes()[range], &Rules::default(), wire.budget()) {
            Step::More => {}
            Step::Accepted { response, .. } => {
                wire.send_copy(&response);
                self.1 = None;
                self.on_deadline(wire);
            }
            _ => wire.finish(),
        }
        1
    }

    fn on_deadline(&mut self, wire: &mut Wire<'_>) {
        let (text, mut head) = (format!("{} here", Rc::strong_count(&self.0) - 1), [0; HEADER_MAX]);
        let header = Header { fin: true, opcode: OpCode::Text, payload_len: text.len() as u64, key: None };
        let len = header.encode(&mut head);
        wire.send_copy(&[&head[..len], text.as_bytes()].concat());
        wire.wake_after(Duration::from_secs(1));
    }
}

fn main() -> io::Result<()> {
    let listener = TcpListener::bind(std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9002".into()))?;
    println!("listening on ws://{}/ws", listener.local_addr()?);
    let engine = engine::choose(None).map_err(io::Error::other)?;
    engine::serve(engine, 10_000, Ticker(Rc::default()), vec![listener.into()])
}
