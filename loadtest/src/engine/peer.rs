//! A connection of a thread: what moves between its protocol and its socket.
//!
//! What is sent is made in the very buffer that the last echo came in, once that is compared.

use std::io;

use bytes::BytesMut;
use ringback::engine::{Handler, Received, Wire};

use super::link::Link;

/// A connection as the engine has it.
pub(super) struct Peer(Link);

impl Handler for Peer {
    fn on_begun(&mut self, wire: &mut Wire<'_>, result: io::Result<()>) {
        // What the server sent before it went tells more than that it went.
        wire.receive_to_the_end();
        self.0.on_connected(result);
        self.settle(wire);
    }

    #[inline]
    fn on_received(&mut self, wire: &mut Wire<'_>, received: Received) -> u32 {
        match received {
            Received::Bytes(mut buffer, range) => {
                self.0.on_bytes(&mut buffer.bytes_mut()[range]);
                if self.has_more() && !wire.is_behind() && wire.room() > 0 {
                    let len = self.fill(buffer.bytes_mut());
                    wire.send(buffer, 0..len);
                }
            }
            Received::End => self.0.on_end(),
            Received::Failed(error) => self.0.on_error(error.kind()),
        }
        self.settle(wire);
        1
    }

    fn on_room(&mut self, wire: &mut Wire<'_>) {
        while self.has_more() && wire.room() > 0 {
            if let Some(mut buffer) = wire.scratch() {
                let len = self.fill(buffer.bytes_mut());
                wire.send(buffer, 0..len);
            } else {
                let mut bytes = BytesMut::zeroed(BUFFER);
                let len = self.fill(&mut bytes);
                bytes.truncate(len);
                wire.send_bytes(bytes);
            }
        }
    }

    #[inline]
    fn has_more(&self) -> bool {
        self.0.has_output()
    }
}

impl Peer {
    pub(super) const fn new(link: Link) -> Self {
        Self(link)
    }

    /// Looks at the connection from outside.
    pub(super) fn look<R>(&mut self, wire: &mut Wire<'_>, look: impl FnOnce(&mut Link) -> R) -> R {
        let found = look(&mut self.0);
        self.settle(wire);
        found
    }

    /// Makes the next bytes to send. Gives how many.
    #[inline]
    fn fill(&mut self, room: &mut [u8]) -> usize {
        let Link { client, load, .. } = &mut self.0;
        let traffic = &load.plan.traffic;
        let filled = client.fill(traffic, room);
        let len = filled.len;
        client.wrote(filled, len, traffic);
        len
    }

    /// Does with the socket what the protocol says.
    #[inline]
    fn settle(&mut self, wire: &mut Wire<'_>) {
        if self.0.is_over() {
            if self.0.load.plan.pace.is_churn() { wire.reset() } else { wire.end() }
        } else if self.0.take_shut() {
            wire.shut_write();
        }
    }
}

/// What bulk is received into, and how many bytes of our own are made at once.
pub(super) const BUFFER: usize = 64 << 10;
