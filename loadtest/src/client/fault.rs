//! What can be wrong with an echo or a connection.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use ringback::proto::ProtocolError;

/// One thing that went wrong. It ends its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A byte of an echo differs.
    WrongBytes {
        /// Its offset in the message, or in the frame where bytes are echoed.
        at: usize,
    },
    /// The echo is that of another message: an earlier one, or a later one that overtook.
    WrongOrder,
    /// The echo of text is binary, or the other way round.
    WrongOpcode,
    /// The echo is shorter or longer than the message.
    WrongLength,
    /// A message, or bytes, that answer nothing: what they say, where that is known.
    Unasked(Option<Box<Words>>),
    /// Fewer messages than announced have come before the first echo.
    GreetingMissing {
        /// How many have come.
        came: u32,
        /// How many were to come.
        of: u32,
    },
    /// An echo that has not come within the grace after the end.
    Missing,
    /// A pong with the payload of a ping of ours, or a part of it, that answers none that is outstanding.
    WrongPong,
    /// A ping that no pong has answered within the grace after the end.
    MissingPong,
    /// A server's frame has the mask bit set (RFC 6455 §5.1).
    MaskedReply,
    /// Another violation of RFC 6455.
    Protocol(ProtocolError),
    /// The connection broke, or ended without a close frame.
    ConnectionLost(io::ErrorKind),
    /// A close frame that we did not ask for, or that answers ours with another code: its code, and its reason as the report shows it.
    UnexpectedClose(Option<u16>, Box<Words>),
    /// No close frame in answer to ours in time.
    CloseMissing,
    /// The server answered our close frame and did not end the connection (RFC 6455 §7.1.1).
    NotEnded,
    /// A message, or a connection of a churn, that was due and for which no connection was left, no room, or no time.
    NotBegun,
    /// The connect(2) of a churn, or of a connection that is opened again, failed: where to, and why.
    ConnectFailed(Box<Words>),
    /// The same did not come to its end in time: where to.
    ConnectTimeout(Box<Words>),
    /// The handshake was answered with another status than 101.
    HandshakeRefused(Box<Refusal>),
    /// The handshake was answered with a 101 that is not valid (RFC 6455 §4.1): why.
    HandshakeInvalid(&'static str),
    /// The handshake was answered with something that is no HTTP: what it is, as far as its first bytes say.
    NotHttp(Box<Words>),
    /// The handshake was not answered in time.
    HandshakeTimeout,
}

/// Words that are told with a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Words(pub(crate) String);

/// How a handshake was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Of the answer.
    pub(crate) status: u16,
    /// What it says of why, to follow the status.
    pub(crate) told: String,
}

impl Fault {
    /// Whether it is about an echo, or one that is missing, and not about the connection.
    pub(crate) const fn is_of_an_echo(&self) -> bool {
        matches!(
            self,
            Self::WrongBytes { .. }
                | Self::WrongOrder
                | Self::WrongOpcode
                | Self::WrongLength
                | Self::Missing
        )
    }

    /// Whether it says no more than that the server, or the network, has ended the connection.
    pub(crate) const fn is_end(&self) -> bool {
        matches!(self, Self::ConnectionLost(_) | Self::UnexpectedClose(..))
    }

    /// Whether it says no more than that a connection was not taken.
    pub(crate) const fn is_of_opening(&self) -> bool {
        matches!(
            self,
            Self::ConnectFailed(_)
                | Self::ConnectTimeout(_)
                | Self::HandshakeRefused(_)
                | Self::HandshakeTimeout
        )
    }

    /// The name under which faults are counted.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::WrongBytes { .. } => "wrong_bytes".into(),
            Self::WrongOrder => "wrong_order".into(),
            Self::WrongOpcode => "wrong_opcode".into(),
            Self::WrongLength => "wrong_length".into(),
            Self::Unasked(_) => "unasked_message".into(),
            Self::GreetingMissing { .. } => "greeting_missing".into(),
            Self::Missing => "missing_echo".into(),
            Self::WrongPong => "wrong_pong".into(),
            Self::MissingPong => "missing_pong".into(),
            Self::MaskedReply => "masked_reply".into(),
            Self::Protocol(_) => "protocol_error".into(),
            Self::ConnectionLost(_) => "connection_lost".into(),
            Self::UnexpectedClose(Some(code), _) => format!("unexpected_close_{code}"),
            Self::UnexpectedClose(None, _) => "unexpected_close".into(),
            Self::CloseMissing => "close_missing".into(),
            Self::NotEnded => "connection_not_ended".into(),
            Self::NotBegun => "not_begun".into(),
            Self::ConnectFailed(_) => "connect_failed".into(),
            Self::ConnectTimeout(_) => "connect_timeout".into(),
            Self::HandshakeRefused(refusal) => format!("handshake_refused_{}", refusal.status),
            Self::HandshakeInvalid(_) | Self::NotHttp(_) => "handshake_invalid".into(),
            Self::HandshakeTimeout => "handshake_timeout".into(),
        }
    }
}

impl From<ProtocolError> for Fault {
    fn from(error: ProtocolError) -> Self {
        match error {
            ProtocolError::Masked => Self::MaskedReply,
            error => Self::Protocol(error),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongBytes { at } => write!(f, "byte {at} of the echo is wrong"),
            Self::WrongOrder => f.write_str("the echo of another message came"),
            Self::WrongOpcode => f.write_str("the echo has the wrong opcode"),
            Self::WrongLength => f.write_str("the echo has the wrong length"),
            Self::Unasked(None) => f.write_str("something came that answers nothing"),
            Self::Unasked(Some(what)) => f.write_str(&what.0),
            Self::GreetingMissing { came, of } => {
                write!(
                    f,
                    "{came} of the {of} messages of --skip came: give it the number that the server sends unasked"
                )
            }
            Self::Missing => f.write_str("the echo did not come"),
            Self::WrongPong => f.write_str("a pong came that answers no ping"),
            Self::MissingPong => f.write_str("the ping was not answered"),
            Self::MaskedReply => f.write_str("the server masked its frame"),
            Self::Protocol(error) => write!(f, "the server broke the protocol: {error}"),
            Self::ConnectionLost(kind) => write!(f, "the connection was lost: {kind}"),
            Self::UnexpectedClose(Some(code), reason) if reason.0.is_empty() => {
                write!(f, "the server closed with code {code}")
            }
            Self::UnexpectedClose(Some(code), reason) => {
                write!(f, "the server closed with code {code}: \"{}\"", reason.0)
            }
            Self::UnexpectedClose(None, _) => f.write_str("the server closed without a code"),
            Self::CloseMissing => f.write_str("the server did not answer the close frame"),
            Self::NotEnded => f.write_str("the server did not end the connection after the close frames"),
            Self::NotBegun => f.write_str("there was no connection, or no time, for what was due"),
            Self::ConnectFailed(why) => write!(f, "cannot connect to {}", why.0),
            Self::ConnectTimeout(place) => write!(f, "cannot connect to {}: it does not answer", place.0),
            Self::HandshakeRefused(refusal) => {
                let Refusal { status, told } = &**refusal;
                write!(f, "the handshake was refused with status {status}{told}{}", cure(*status))
            }
            Self::HandshakeInvalid(why) => write!(f, "the handshake's answer is not valid: {why}"),
            Self::NotHttp(what) => write!(f, "the handshake's answer is not HTTP: {}", what.0),
            Self::HandshakeTimeout => f.write_str("the handshake was not answered"),
        }
    }
}

/// What may be behind a status that refuses, to be said after it.
const fn cure(status: u16) -> &'static str {
    match status {
        200..=299 => ": a page or a file is there; is WebSocket spoken on another path, such as /ws?",
        300..=399 => ": it is elsewhere, and a redirect is not followed",
        401 | 403 | 407 => ": it may ask for --origin or --header",
        404 | 405 => ": is WebSocket spoken on another path, such as /ws?",
        503 => ": there may be too many connections",
        _ => "",
    }
}

/// The faults of a thread, or of a run: how many of each kind, and the first few in words.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    counts: BTreeMap<String, u64>,
    examples: Vec<String>,
}

impl Faults {
    /// Counts `count` faults of connection `connection`, the first at its message `message`; both count from 0.
    pub(crate) fn add(&mut self, fault: &Fault, count: u64, connection: usize, message: u64) {
        *self.counts.entry(fault.kind()).or_default() += count;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("connection {connection}, message {message}: {fault}"));
        }
    }

    /// Adds those of another thread.
    pub(crate) fn merge(&mut self, other: Self) {
        for (kind, count) in other.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        let room = EXAMPLES_MAX - self.examples.len();
        self.examples.extend(other.examples.into_iter().take(room));
    }

    /// How many there are of each kind.
    pub(crate) const fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// The first few, in words.
    pub(crate) fn examples(&self) -> &[String] {
        &self.examples
    }

    /// How many there are.
    pub(crate) fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

/// How many faults are told in words.
const EXAMPLES_MAX: usize = 5;
