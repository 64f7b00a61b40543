//! Frames as a client and as a server write them, by tungstenite.

use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

/// An unfragmented, masked frame of this payload.
pub(crate) fn from_client(kind: Data, payload: &[u8]) -> Vec<u8> {
    encode(kind, payload, Some([0x37, 0xFA, 0x21, 0x3D]))
}

/// An unfragmented frame of this payload, as a client's is echoed.
pub(crate) fn from_server(kind: Data, payload: &[u8]) -> Vec<u8> {
    encode(kind, payload, None)
}

fn encode(kind: Data, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut frame = Frame::message(payload.to_vec(), OpCode::Data(kind), true);
    frame.header_mut().mask = mask;
    let mut bytes = Vec::new();
    frame.format(&mut bytes).expect("a vector takes all bytes");
    bytes
}
