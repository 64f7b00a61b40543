//! How connections are made.

use std::collections::HashSet;

use socket2::SockAddr;

use super::value;
use crate::address::Addresses;
use crate::client::request::{ExtraHeader, HOST, Headers, Request, Wishes, is_token};
use crate::connect;
use crate::run::Failure;
use crate::source::Sources;
use crate::target::{Place, Scheme, Target};

/// The options that say how connections are made.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Connections")]
pub(crate) struct ConnectionArgs {
    /// Local addresses that connections come from, in turn: 127.0.0.1,127.0.0.2 or 127.0.0.0/24
    ///
    /// A network stands for the addresses of its hosts. An address has about 28,000 ports for one server; more
    /// connections need more addresses.
    #[arg(long, value_name = "ADDRESSES")]
    source: Option<Sources>,

    /// A further header of the handshake, or another value for Host, or for one of the headers of --churn; may be given again
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<ExtraHeader>,

    /// The handshake's Origin, for example `https://example.org` [default: none, with --churn the target's]
    #[arg(long, value_name = "URL", value_parser = parse_origin)]
    origin: Option<String>,

    /// A sub-protocol to offer; may be given again. The server selects one of them, or none
    #[arg(long, value_name = "NAME", value_parser = parse_subprotocol)]
    subprotocol: Vec<String>,

    /// Messages that the server sends first on each connection, 1 to 1000000: they are awaited and read over
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = value::count(GREETINGS_MAX))]
    skip: Option<u32>,

    /// Spread the connections over all addresses of the name; without it, each tries them in order until one takes it
    #[arg(long)]
    all_addresses: bool,

    /// Open a connection again that the server ends, or that breaks, after a pause of 10 ms, doubled up to 1.28 s while no
    /// echo comes. It is no error then, and counted apart; messages that were in flight are missing
    #[arg(long, conflicts_with = "churn")]
    pub(super) reconnect: bool,
}

impl ConnectionArgs {
    /// The addresses that were found for the target, or those of them that connections can reach from --source.
    ///
    /// # Errors
    ///
    /// There is none, in one line.
    pub(super) fn addresses(&self, target: &Target, found: Vec<SockAddr>) -> Result<Addresses, Failure> {
        if self.all_addresses && matches!(target.place, Place::Unix(_)) {
            return Err(Failure::Usage("--all-addresses is for TCP: a unix: target has one address".into()));
        }
        let mut addresses = Addresses::new(target, found, self.all_addresses);
        if let Some(sources) = self.source.as_ref().filter(|_| !matches!(target.place, Place::Unix(_))) {
            let all: Vec<_> = (0..addresses.count()).map(|number| addresses.shown(number)).collect();
            if !addresses.keep_family_of(sources) {
                let (ours, theirs) = if sources.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
                let all = all.join(", ");
                return Err(Failure::Usage(format!(
                    "--source has {ours} addresses and the target is {all}, {theirs}"
                )));
            }
        }
        Ok(addresses)
    }

    /// The addresses to come from, each of which is tried.
    ///
    /// # Errors
    ///
    /// One that cannot be used for the target, in one line.
    pub(crate) fn sources(
        &self,
        addresses: &Addresses,
        connections: usize,
    ) -> Result<Option<Sources>, Failure> {
        let Some(sources) = &self.source else {
            return Ok(None);
        };
        let Some(target) = addresses.get(0).as_socket() else {
            return Err(Failure::Usage(
                "--source is for TCP, and a unix: target is not reached by it".into(),
            ));
        };
        connect::check_sources(sources, target, connections)?;
        Ok(Some(sources.clone()))
    }

    /// The request of every connection; that of a browser where connections are what is measured.
    ///
    /// # Errors
    ///
    /// Sub-protocols that are the same (RFC 6455 §4.1); wishes for a target that gets no request.
    pub(crate) fn request(&self, target: &Target, is_churn: bool) -> Result<Request, Failure> {
        if target.scheme == Scheme::Raw {
            let wishes = [
                ("--header", !self.header.is_empty()),
                ("--origin", self.origin.is_some()),
                ("--subprotocol", !self.subprotocol.is_empty()),
                ("--skip", self.skip.is_some()),
            ];
            if let Some((option, _)) = wishes.into_iter().find(|(_, is_given)| *is_given) {
                let told = format!("{option} is for WebSocket, and a tcp:// target has none of it");
                return Err(Failure::Usage(told));
            }
        }
        let mut seen = HashSet::new();
        if let Some(twice) = self.subprotocol.iter().find(|name| !seen.insert(*name)) {
            return Err(Failure::Usage(format!("--subprotocol {twice} is there twice")));
        }
        if self.header.iter().filter(|header| header.is(HOST)).count() > 1 {
            return Err(Failure::Usage(
                "--header Host is there twice, and a request has one (RFC 9112 §3.2)".into(),
            ));
        }
        let wishes = Wishes {
            origin: self.origin.clone(),
            subprotocols: self.subprotocol.clone(),
            headers: self.header.clone(),
            greetings: self.skip.unwrap_or(0),
        };
        let headers = if is_churn { Headers::Browser } else { Headers::Required };
        Ok(Request::new(target, headers, &wishes))
    }
}

/// The most messages of a greeting.
const GREETINGS_MAX: u32 = 1_000_000;

/// An origin as RFC 6454 §7 writes it: a scheme, a host and perhaps a port, or `null`.
fn parse_origin(text: &str) -> Result<String, String> {
    let is_origin = text.split_once("://").is_some_and(|(scheme, host)| {
        is_token(scheme)
            && !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
    });
    if is_origin || text == "null" {
        return Ok(text.to_owned());
    }
    Err("an origin is like https://example.org, without a path".into())
}

fn parse_subprotocol(text: &str) -> Result<String, String> {
    if is_token(text) {
        return Ok(text.to_owned());
    }
    Err("the name of a sub-protocol is made of letters, digits and !#$%&'*+-.^_`|~".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        for origin in ["https://example.org", "http://127.0.0.1:80", "null"] {
            assert_eq!(parse_origin(origin).as_deref(), Ok(origin));
        }
        for origin in ["", "example.org", "https://", "https://a/b", "https://a b", "https://a\r\nX: y"] {
            assert!(parse_origin(origin).is_err(), "{origin}");
        }
    }

    #[test]
    fn subprotocols() {
        assert_eq!(parse_subprotocol("v1.chat").as_deref(), Ok("v1.chat"));
        for name in ["", "a b", "a,b", "a\r\n", "ä"] {
            assert!(parse_subprotocol(name).is_err(), "{name}");
        }
    }
}
