//! What options say of each other: rules that hold for all of them together, wherever each comes from.

use std::fmt::Display;

use super::{Address, Config, EngineChoice};
use crate::proto::handshake::{ANY, Handshake};

/// Room in bytes for the page with its head, and for each byte of the path, which stands in it twice and escaped.
const PAGE_ROOM: usize = 40 << 10;
const PATH_ROOM: usize = 12;

/// Options that do not go together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contradiction {
    /// Their long names.
    pub(crate) options: &'static [&'static str],
    /// What is wrong, and what would do.
    pub(crate) what: String,
}

impl Config {
    /// Finds options that do not go together; `is_given` says by its long name whether somebody has chosen a value.
    pub(crate) fn check(&self, is_given: impl Fn(&str) -> bool) -> Result<(), Contradiction> {
        let wrong = |options, what: String| Err(Contradiction { options, what });
        let addresses = &self.listening.addresses;
        for (index, address) in addresses.iter().enumerate() {
            if let Some(other) = addresses.iter().take(index).find(|other| overlap(other, address)) {
                let what =
                    format!("--listen {other} and --listen {address} take the same socket: give one of them");
                return wrong(&["listen"], what);
            }
        }
        if let Some(admin) = self.admin.address.map(Address::Ip)
            && let Some(other) = addresses.iter().find(|other| overlap(other, &admin))
        {
            let what = format!(
                "--listen {other} and --admin {admin} take the same port: choose another for one of them"
            );
            return wrong(&["listen", "admin"], what);
        }
        twice(&["path"], &self.access.paths)?;
        // RFC 6455 §4.1: the names that a client may offer are all different.
        twice(&["subprotocol"], &self.access.subprotocols)?;
        if let Some(at) = self.access.subprotocols.iter().position(|name| name == ANY)
            && let Some(behind) = self.access.subprotocols.get(at + 1)
        {
            let what = format!(
                "--subprotocol {behind} comes after --subprotocol '*', which agrees to every offer: put '*' last"
            );
            return wrong(&["subprotocol"], what);
        }
        twice(&["allowed-origin"], &self.access.allowed_origins)?;
        if !self.pin && self.cpus.is_some() {
            let what =
                "--cpus keeps the workers on CPUs, --no-pin leaves that to the kernel: give one of the two";
            return wrong(&["cpus", "no-pin"], what.into());
        }
        if self.listening.unix_mode.is_some() && !addresses.iter().any(|one| matches!(one, Address::Path(_)))
        {
            let what = "--unix-mode is for --listen unix:/PATH: add one, or leave the mode out";
            return wrong(&["unix-mode", "listen"], what.into());
        }
        if !self.busy_poll.is_zero() && matches!(self.engine, EngineChoice::Epoll | EngineChoice::TokioUring)
        {
            let what = "--busy-poll is for the ring engine: leave it out, or choose --engine ring or auto";
            return wrong(&["busy-poll", "engine"], what.into());
        }
        if self.keep_alive.interval.is_zero()
            && !self.keep_alive.timeout.is_zero()
            && is_given("keep-alive-timeout")
        {
            let what = "--keep-alive-timeout waits for the answer to a ping, and --keep-alive-interval 0s sends none: \
                        leave the timeout out, or give an interval";
            return wrong(&["keep-alive-timeout", "keep-alive-interval"], what.into());
        }
        self.check_memory(&is_given)?;
        match (self.ring.submissions, self.ring.completions) {
            (Some(submissions), Some(completions)) if completions < submissions => wrong(
                &["ring-submissions", "ring-completions"],
                "--ring-completions is no less than --ring-submissions".into(),
            ),
            _ => Ok(()),
        }
    }
}

impl Config {
    /// The smallest `--unsent-total` that works: one request's head, the page and one receive buffer fit into it.
    pub(crate) fn unsent_total_min(&self) -> usize {
        Handshake::held_max(self.head.max_size)
            + PAGE_ROOM
            + PATH_ROOM * self.access.first_path().len()
            + self.receive_buffer_size
    }

    /// Finds sizes for which `--unsent-total` has no room.
    fn check_memory(&self, is_given: &impl Fn(&str) -> bool) -> Result<(), Contradiction> {
        let total = self.unsent_total;
        let least = self.unsent_total_min();
        if total < least {
            let what = format!(
                "--unsent-total of {total} bytes has no room for one request, the page and one receive buffer: give {least} \
                 bytes or more, or lower --receive-buffer-size or --max-head-size"
            );
            return Err(Contradiction {
                options: &["unsent-total", "receive-buffer-size", "max-head-size"],
                what,
            });
        }
        let total = u64::try_from(total).unwrap_or(u64::MAX);
        let unsent_limit = u64::try_from(self.unsent_limit).unwrap_or(u64::MAX);
        for (options, size) in [
            (&["unsent-limit", "unsent-total"], unsent_limit),
            (&["whole-frame-max", "unsent-total"], self.whole_frame_max),
        ] {
            let name = options[0];
            if size > total && is_given(name) {
                let what = format!(
                    "--{name} is {size} bytes and --unsent-total, which bounds it, {total} bytes: lower the first or raise \
                     the second"
                );
                return Err(Contradiction { options, what });
            }
        }
        Ok(())
    }
}

/// Whether two addresses cannot both be listened on. Any two free ports can.
fn overlap(a: &Address, b: &Address) -> bool {
    match (a, b) {
        (Address::Ip(a), Address::Ip(b)) => {
            let is_everywhere = a.ip().is_unspecified() || b.ip().is_unspecified();
            a.port() != 0
                && a.port() == b.port()
                && a.is_ipv4() == b.is_ipv4()
                && (is_everywhere || a.ip() == b.ip())
        }
        _ => a == b,
    }
}

fn twice<T: Display + PartialEq>(
    option: &'static [&'static str; 1],
    values: &[T],
) -> Result<(), Contradiction> {
    for (index, value) in values.iter().enumerate() {
        if values.iter().take(index).any(|earlier| earlier == value) {
            let what = format!("--{} {value} is given twice: give it once", option[0]);
            return Err(Contradiction { options: option, what });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_defaults_agree() {
        assert_eq!(Config::default().check(|_| true), Ok(()));
    }

    #[test]
    fn options_that_do_not_go_together_are_named() {
        type Change = fn(&mut Config);
        let listen = |config: &mut Config, addresses: [&str; 2]| {
            config.listening.addresses = addresses.map(|one| one.parse().unwrap()).into();
        };
        let taken = |change: &dyn Fn(&mut Config), is_given: bool| {
            let mut config = Config::default();
            change(&mut config);
            config.check(|_| is_given).map_err(|Contradiction { what, .. }| what)
        };
        for (addresses, is_right) in [
            (["127.0.0.1:1", "127.0.0.1:1"], false),
            (["0.0.0.0:1", "127.0.0.1:1"], false),
            (["[::]:1", "[::1]:1"], false),
            (["unix:/a", "unix:/a"], false),
            (["unix:@a", "unix:@a"], false),
            (["127.0.0.1:0", "127.0.0.1:0"], true),
            (["127.0.0.1:1", "127.0.0.2:1"], true),
            (["127.0.0.1:1", "[::1]:1"], true),
            (["unix:/a", "unix:@/a"], true),
        ] {
            let said = taken(&|config| listen(config, addresses), true);
            assert_eq!(said.is_ok(), is_right, "{addresses:?}: {said:?}");
        }
        let changes: [(Change, &str); 14] = [
            (|config| config.unsent_total = 64 << 10, "--unsent-total of 65536 bytes has no room"),
            (|config| config.receive_buffer_size = 256 << 20, "or lower --receive-buffer-size"),
            (
                |config| (config.unsent_total, config.head.max_size) = (128 << 10, 64 << 10),
                "--unsent-total of 131072 bytes has no room",
            ),
            (|config| config.unsent_total = 8 << 20, "--unsent-limit is 16777216 bytes"),
            (|config| config.whole_frame_max = 1 << 40, "--whole-frame-max is 1099511627776 bytes"),
            (
                |config| config.admin.address = Some("127.0.0.1:9001".parse().unwrap()),
                "--admin 127.0.0.1:9001",
            ),
            (|config| config.access.paths = vec!["/a".into(), "/a".into()], "--path /a is given twice"),
            (|config| config.access.subprotocols = vec!["a".into(), "a".into()], "--subprotocol a"),
            (
                |config| config.access.subprotocols = vec!["*".into(), "a".into()],
                "--subprotocol a comes after --subprotocol '*'",
            ),
            (
                |config| (config.cpus, config.pin) = (Some("0".parse().unwrap()), false),
                "--cpus keeps the workers on CPUs",
            ),
            (|config| config.access.allowed_origins = vec!["null".into(), "null".into()], "--allowed-origin"),
            (|config| config.listening.unix_mode = Some(0o600), "--unix-mode is for"),
            (
                |config| (config.engine, config.busy_poll) = (EngineChoice::Epoll, Duration::from_secs(1)),
                "--busy-poll is for the ring engine",
            ),
            (|config| config.keep_alive.interval = Duration::ZERO, "--keep-alive-interval 0s sends none"),
        ];
        for (change, said) in changes {
            let told = taken(&change, true).expect_err(said);
            assert!(told.contains(said), "{told}");
        }
        // A default gives way, and the least total is enough.
        assert_eq!(taken(&|config| config.unsent_total = 8 << 20, false), Ok(()));
        let least = Config::default().unsent_total_min();
        assert_eq!(taken(&|config| config.unsent_total = least, false), Ok(()));
        assert!(taken(&|config| config.unsent_total = least - 1, false).is_err());
        assert_eq!(taken(&|config| config.keep_alive.interval = Duration::ZERO, false), Ok(()));
        let (submissions, completions) = (Some(16), Some(8));
        let change = |config: &mut Config| {
            (config.ring.submissions, config.ring.completions) = (submissions, completions);
        };
        assert!(taken(&change, true).is_err());
    }
}
