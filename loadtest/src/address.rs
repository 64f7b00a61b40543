//! The addresses that connections go to, and which of them each connection tries.

use std::sync::Arc;
use std::time::Duration;

use socket2::SockAddr;

use crate::source::Sources;
use crate::target::Target;

/// The addresses of a target.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    /// At least one, all of them unix sockets or none.
    list: Vec<Arc<SockAddr>>,
    /// The name they belong to, where they were looked up.
    name: Option<String>,
    /// Whether connections begin with each of them in turn.
    is_spread: bool,
}

impl Addresses {
    /// The addresses, at least one, that were found for the target. Connections begin with the first one, or, where they
    /// are to be spread, each with the next one.
    pub(crate) fn new(target: &Target, list: Vec<SockAddr>, is_spread: bool) -> Self {
        assert!(!list.is_empty(), "a name without an address is an error of the resolver");
        let list = list.into_iter().map(Arc::new).collect();
        Self { list, name: target.name().map(str::to_owned), is_spread }
    }

    /// Leaves out those that no connection from `sources` can reach; whether any is left.
    pub(crate) fn keep_family_of(&mut self, sources: &Sources) -> bool {
        self.list.retain(|address| address.as_socket().is_some_and(|it| it.is_ipv4() == sources.is_ipv4()));
        !self.list.is_empty()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.list.len()
    }

    /// The address with this number.
    pub(crate) fn get(&self, number: usize) -> &Arc<SockAddr> {
        &self.list[number]
    }

    /// The number of the address that a connection begins with, where `preferred` was the last one to be reached.
    pub(crate) fn begin_with(&self, index: usize, preferred: usize) -> usize {
        if self.is_spread { index % self.list.len() } else { preferred }
    }

    /// How long a connection waits for an address while there is another one to try.
    pub(crate) fn patience(&self, connect_timeout: Duration) -> Duration {
        let share = connect_timeout / u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        share.min(PATIENCE_MAX)
    }

    /// An address as it is told: the address itself.
    pub(crate) fn shown(&self, number: usize) -> String {
        let address = &self.list[number];
        match (address.as_socket(), address.as_pathname(), address.as_abstract_namespace()) {
            (Some(address), _, _) => address.to_string(),
            (_, Some(path), _) => format!("unix:{}", path.display()),
            (_, _, Some(name)) => format!("unix:@{}", String::from_utf8_lossy(name)),
            _ => "unix:".to_owned(),
        }
    }

    /// An address with the name that it belongs to, as it is told in an error.
    pub(crate) fn shown_with_name(&self, number: usize) -> String {
        match &self.name {
            Some(name) => format!("{} ({name})", self.shown(number)),
            None => self.shown(number),
        }
    }

    /// Whether the target itself says what the address is.
    pub(crate) const fn is_literal(&self) -> bool {
        self.name.is_none()
    }
}

/// The longest that a connection waits for an address while there is another one to try.
const PATIENCE_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn addresses(list: &[&str], is_spread: bool) -> Addresses {
        let target = "ws://name:80/".parse().expect("valid");
        let list = list.iter().map(|text| text.parse::<SocketAddr>().expect("valid").into());
        Addresses::new(&target, list.collect(), is_spread)
    }

    #[test]
    fn connections_are_spread_where_that_is_asked_for() {
        let list = ["[::1]:80", "127.0.0.1:80", "127.0.0.2:80"];
        let spread = addresses(&list, true);
        assert_eq!([0, 1, 2, 3, 7].map(|index| spread.begin_with(index, 2)), [0, 1, 2, 0, 1]);
        let not = addresses(&list, false);
        assert_eq!([0, 1, 2].map(|index| not.begin_with(index, 2)), [2; 3]);
        assert_eq!(
            (not.shown(0).as_str(), not.shown_with_name(1).as_str()),
            ("[::1]:80", "127.0.0.1:80 (name)")
        );
    }

    #[test]
    fn addresses_of_the_other_family_are_left_out() {
        let sources: Sources = "127.0.0.3".parse().expect("valid");
        let mut both = addresses(&["[::1]:80", "127.0.0.1:80"], false);
        assert!(both.keep_family_of(&sources));
        assert_eq!((both.count(), both.shown(0).as_str()), (1, "127.0.0.1:80"));
        assert!(!addresses(&["[::1]:80"], false).keep_family_of(&sources));
    }

    #[test]
    fn a_silent_address_costs_a_part_of_the_time_only() {
        let two = addresses(&["[::1]:80", "127.0.0.1:80"], false);
        assert_eq!(two.patience(Duration::from_secs(60)), Duration::from_secs(2));
        assert_eq!(two.patience(Duration::from_millis(300)), Duration::from_millis(150));
    }
}
