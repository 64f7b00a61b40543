//! The loads that are compared, one a cell.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::judge::Figure;
use crate::cli::{DEPTH_MAX, parse_rate};
use crate::client::sizes::parse_size;
use crate::client::traffic::Kind;

/// One load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    /// At a time; more than 0.
    pub(crate) connections: u32,
    /// What they do.
    pub(crate) load: Load,
}

/// What the connections of a cell do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// `KIND:CONNECTIONS:SIZE:DEPTH`: each has that many messages in flight.
    Closed { kind: &'static str, size: String, depth: u32 },
    /// `open:CONNECTIONS:SIZE:RATE`: messages are due at that rate, over all of them.
    Open { size: String, rate: String },
    /// `churn:CONNECTIONS`: each is for one message, and the next one follows.
    Churn,
    /// `idle:CONNECTIONS`: they are held.
    Idle,
}

impl Cell {
    /// The load in the words of the load generator.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["-c".to_owned(), self.connections.to_string()];
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
        match &self.load {
            Load::Closed { kind, size, depth } => {
                add(&["--depth", &depth.to_string(), "--size", size, "--kind", kind]);
            }
            Load::Open { size, rate } => add(&["--size", size, "--rate", rate]),
            Load::Churn => add(&["--churn"]),
            Load::Idle => add(&["--idle"]),
        }
        arguments
    }

    /// What costs are counted by.
    pub(crate) const fn unit(&self) -> &'static str {
        match self.load {
            Load::Closed { .. } | Load::Open { .. } => "message",
            Load::Churn | Load::Idle => "connection",
        }
    }

    /// What servers are compared by here. The first one decides whether they can be told apart.
    pub(crate) const fn figures(&self) -> &'static [Figure] {
        match self.load {
            Load::Closed { .. } | Load::Churn => &[Figure::Cpu, Figure::Rate, Figure::P50],
            Load::Open { .. } => &[Figure::P99, Figure::P50, Figure::Cpu],
            Load::Idle => &[Figure::Memory],
        }
    }

    /// Whether each visit is to a server that was started for it: memory that another load has left behind would be
    /// used again, and not be seen.
    pub(crate) const fn wants_fresh_server(&self) -> bool {
        matches!(self.load, Load::Idle)
    }

    /// In words.
    pub(crate) fn title(&self) -> String {
        let Self { connections, load } = self;
        let plural = if *connections == 1 { "" } else { "s" };
        let connections = format!("{connections} connection{plural}");
        match load {
            Load::Closed { kind, size, depth } => {
                format!("{kind}, {connections}, {}, {depth} in flight", with_unit(size))
            }
            Load::Open { size, rate } => {
                format!("open loop, {connections}, {}, {rate} a second", with_unit(size))
            }
            Load::Churn => format!("churn, {connections} at a time"),
            Load::Idle => format!("idle, {connections}"),
        }
    }

    /// Its name where a `:` cannot stand.
    pub(crate) fn file_name(&self) -> String {
        self.to_string().replace(':', "-")
    }

    /// The file of its chart.
    pub(crate) fn chart_name(&self) -> String {
        format!("{}.svg", self.file_name())
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, load } = self;
        match load {
            Load::Closed { kind, size, depth } => write!(f, "{kind}:{connections}:{size}:{depth}"),
            Load::Open { size, rate } => write!(f, "open:{connections}:{size}:{rate}"),
            Load::Churn => write!(f, "churn:{connections}"),
            Load::Idle => write!(f, "idle:{connections}"),
        }
    }
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split(':').collect();
        let (connections, load) = match parts[..] {
            ["churn", connections] => (connections, Load::Churn),
            ["idle", connections] => (connections, Load::Idle),
            ["open", connections, size, rate] => {
                parse_rate(rate).map_err(|why| format!("the rate '{rate}': {why}"))?;
                (connections, Load::Open { size: checked_size(size)?, rate: rate.to_owned() })
            }
            [kind, connections, size, depth] => {
                let names = KINDS.map(Kind::name);
                let kind = names.into_iter().find(|&name| name == kind).ok_or_else(|| {
                    format!("'{kind}' is none of {}, open, churn and idle", names.join(", "))
                })?;
                let depth = positive(depth)?;
                if depth > DEPTH_MAX {
                    return Err(format!("{depth} in flight are more than {DEPTH_MAX}"));
                }
                (connections, Load::Closed { kind, size: checked_size(size)?, depth })
            }
            _ => {
                return Err("it is none of KIND:CONNECTIONS:SIZE:DEPTH, open:CONNECTIONS:SIZE:RATE, \
                     churn:CONNECTIONS and idle:CONNECTIONS"
                    .into());
            }
        };
        Ok(Self { connections: positive(connections)?, load })
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn positive(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err(format!("'{text}' is not a number above 0")),
    }
}

fn checked_size(text: &str) -> Result<String, String> {
    parse_size(text).map(|_| text.to_owned()).map_err(|why| format!("the size '{text}': {why}"))
}

fn with_unit(size: &str) -> String {
    let is_bare = size.chars().all(|c| c.is_ascii_digit());
    if is_bare { format!("{size} B") } else { size.to_owned() }
}

/// The kinds of messages. Pings are none.
const KINDS: [Kind; 4] = [Kind::Text, Kind::Utf8, Kind::Binary, Kind::Mixed];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_read_and_written_alike() {
        for (text, arguments, unit, title) in [
            (
                "utf8:16:16KiB:2",
                "-c 16 --depth 2 --size 16KiB --kind utf8",
                "message",
                "utf8, 16 connections, 16KiB, 2 in flight",
            ),
            (
                "open:8:64:20000",
                "-c 8 --size 64 --rate 20000",
                "message",
                "open loop, 8 connections, 64 B, 20000 a second",
            ),
            (
                "open:1:1k:1.5M",
                "-c 1 --size 1k --rate 1.5M",
                "message",
                "open loop, 1 connection, 1k, 1.5M a second",
            ),
            ("churn:1", "-c 1 --churn", "connection", "churn, 1 connection at a time"),
            ("idle:15000", "-c 15000 --idle", "connection", "idle, 15000 connections"),
        ] {
            let cell: Cell = text.parse().expect(text);
            assert_eq!(cell.to_string(), text);
            assert_eq!(cell.arguments().join(" "), arguments);
            assert_eq!((cell.unit(), cell.title().as_str()), (unit, title));
            assert!(!cell.file_name().contains(':'));
        }
    }

    #[test]
    fn what_is_no_cell_is_refused() {
        for text in [
            "",
            "text",
            "text:64:64",
            "text:x:64:1",
            "text:0:64:1",
            ":1:64:1",
            "text:1::1",
            "text:1:64:0",
            "text:1",
            "json:1:64:1",
            "text:1:many:1",
            "text:1:2GiB:1",
            "text:1:64:65537",
            "ping:1:64:1",
            "churn",
            "churn:0",
            "churn:x",
            "churn:1:64:1",
            "idle",
            "idle:0",
            "open:1:64",
            "open:1:64:0",
            "open:1:64:fast",
            "open:0:64:1",
            "open:1:64:-1",
            "open:1:64:20x",
            "open:1:64:1e12",
            "open:1:2GiB:1",
        ] {
            assert!(text.parse::<Cell>().is_err(), "{text}");
        }
        assert!("json:1:64:1".parse::<Cell>().expect_err("no kind").contains("text, utf8"));
    }
}
