//! Addresses that are in use only because the kernel has not freed them yet.
//!
//! The rings of a killed process outlive it for a moment: a thread of the kernel ends their operations later. Until then a
//! pending accept keeps the listening socket open. Clients can still connect to it, so a connection shows nothing. But no
//! process has a descriptor of it.
//!
//! A descriptor may be hidden: by another PID namespace, or because the process has more rights than this one. A live server
//! then looks like a killed one, and only costs the wait. A server of another user always counts as live.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::geteuid;

use super::StartError;
use crate::config::Address;

/// How long to wait for the kernel.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait between two attempts.
const PAUSE: Duration = Duration::from_millis(5);

/// What keeps an address in use.
#[derive(Debug, PartialEq, Eq)]
enum Holder {
    /// A process listens there.
    Process,
    /// The kernel has a listening socket there, and no process has.
    Kernel,
    /// There is no listening socket.
    Nobody,
}

/// Calls `bind`; again for two seconds while `address` is in use and no process listens there.
///
/// # Errors
///
/// Those of `bind`. Where a process listens, its first one.
pub(super) fn bind_in_time<T>(
    address: &Address,
    mut bind: impl FnMut() -> Result<T, StartError>,
) -> Result<T, StartError> {
    let began = Instant::now();
    let mut was_seen = true;
    loop {
        let error = match bind() {
            Err(error) if is_in_use(&error) => error,
            result => return result,
        };
        let is_seen = match holder(address) {
            Ok(Holder::Kernel) => true,
            // The socket may have gone after `bind` failed. If it is missing twice, something else is in the way.
            Ok(Holder::Nobody) if was_seen => false,
            _ => return Err(error),
        };
        if began.elapsed() >= PATIENCE {
            return Err(error);
        }
        was_seen = is_seen;
        thread::sleep(PAUSE);
    }
}

fn is_in_use(error: &StartError) -> bool {
    matches!(error, StartError::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
}

/// Finds out what keeps `address` in use.
fn holder(address: &Address) -> io::Result<Holder> {
    let sockets = match address {
        Address::Ip(address) => tcp_listeners(*address)?,
        Address::Path(path) => {
            let owner = fs::symlink_metadata(path)?.uid();
            unix_listeners(&path.to_string_lossy(), owner)?
        }
        Address::Abstract(name) => unix_listeners(&format!("@{name}"), geteuid().as_raw())?,
    };
    let own = sockets_of("self");
    let others: Vec<_> = sockets.into_iter().filter(|(inode, _)| !own.contains(inode)).collect();
    if others.is_empty() {
        return Ok(Holder::Nobody);
    }
    let user = geteuid();
    if others.iter().any(|&(_, owner)| owner != user.as_raw() && !user.is_root()) {
        return Ok(Holder::Process);
    }
    let is_held = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .any(|process| {
            let held = sockets_of(&process);
            others.iter().any(|(inode, _)| held.contains(inode))
        });
    Ok(if is_held { Holder::Process } else { Holder::Kernel })
}

/// The inodes of a process's sockets; none if this process may not see them.
fn sockets_of(process: &str) -> HashSet<u64> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else { return HashSet::new() };
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets
        .filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

/// The inodes and owners of the TCP listeners that keep `address` in use (proc_net_tcp(5)).
fn tcp_listeners(address: SocketAddr) -> io::Result<Vec<(u64, u32)>> {
    let mut found = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let table = match File::open(table) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            table => BufReader::new(table?),
        };
        for line in table.lines().skip(1) {
            // Listening sockets come first. There may be very many others.
            let Some((other, inode, owner)) = listener(&line?) else { break };
            if is_in_the_way(address, other) {
                found.push((inode, owner));
            }
        }
    }
    Ok(found)
}

/// Reads a line of the table: where a socket listens, its inode and its owner. `None` if the socket does not listen.
fn listener(line: &str) -> Option<(SocketAddr, u64, u32)> {
    const LISTEN: &str = "0A";
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let [_, local, _, LISTEN, _, _, _, owner, _, inode, ..] = fields[..] else { return None };
    let (ip, port) = local.split_once(':')?;
    // The table has words of 32 bits in the byte order of the machine.
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = if ip.len() == 8 {
        Ipv4Addr::from(word(0)?).into()
    } else {
        let words = [word(0)?, word(8)?, word(16)?, word(24)?];
        Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?).into()
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((SocketAddr::new(ip, port), inode.parse().ok()?, owner.parse().ok()?))
}

/// Whether a listener at `other` keeps `address` in use. The table does not say whether one at `[::]` takes IPv4 too; here it
/// does.
fn is_in_the_way(address: SocketAddr, other: SocketAddr) -> bool {
    address.port() == other.port()
        && match (address.ip(), other.ip()) {
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                one == other || one.is_unspecified() || other.is_unspecified()
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => {
                one == other || one.is_unspecified() || other.is_unspecified()
            }
            (IpAddr::V4(_), IpAddr::V6(ip)) | (IpAddr::V6(ip), IpAddr::V4(_)) => ip.is_unspecified(),
        }
}

/// The inodes of the unix listeners of this name (proc_net_unix(5)). The table has no owners; `owner` stands for them.
fn unix_listeners(name: &str, owner: u32) -> io::Result<Vec<(u64, u32)>> {
    let table = fs::read("/proc/net/unix")?;
    let table = String::from_utf8_lossy(&table);
    Ok(table.lines().filter_map(|line| unix_listener(line, name)).map(|inode| (inode, owner)).collect())
}

/// Reads a line of the table: the inode of a listening socket of this name.
fn unix_listener(line: &str, name: &str) -> Option<u64> {
    // __SO_ACCEPTCON
    const LISTENS: &str = "00010000";
    let (mut fields, mut path) = ([""; 7], line);
    for field in &mut fields {
        (*field, path) = path.trim_start().split_once(' ')?;
    }
    let [.., flags, _, _, inode] = fields;
    (flags == LISTENS && path == name).then(|| inode.parse().ok())?
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

    use super::*;

    /// As the kernel writes it on a machine of this byte order.
    fn line(ip: &str, state: &str) -> String {
        let words: Vec<_> = match ip.parse().expect("an address") {
            IpAddr::V4(ip) => vec![u32::from_ne_bytes(ip.octets())],
            IpAddr::V6(ip) => {
                ip.octets().as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect()
            }
        };
        let ip: String = words.iter().map(|word| format!("{word:08X}")).collect();
        format!(
            "   0: {ip}:2329 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 77 1 0 100 0"
        )
    }

    #[test]
    fn listening_sockets_are_read_out_of_the_table() {
        for ip in ["127.0.0.1", "0.0.0.0", "::", "::1", "2001:db8::1", "::ffff:192.0.2.1"] {
            let address = SocketAddr::new(ip.parse().expect("an address"), 9001);
            assert_eq!(listener(&line(ip, "0A")), Some((address, 77, 1000)), "{ip}");
            assert_eq!(listener(&line(ip, "01")), None, "{ip}");
        }
        assert_eq!(
            listener("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt"),
            None
        );
        for (line, inode) in [
            ("0000000000000000: 00000002 00000000 00010000 0001 01    77 /run/a b.sock", Some(77)),
            ("0000000000000000: 00000002 00000000 00010000 0001 01 123456 /run/a b.sock", Some(123_456)),
            ("0000000000000000: 00000003 00000000 00000000 0001 03    77 /run/a b.sock", None),
            ("0000000000000000: 00000002 00000000 00010000 0001 01    77 /run/a", None),
            ("0000000000000000: 00000002 00000000 00010000 0001 01    77", None),
            ("Num       RefCount Protocol Flags    Type St Inode Path", None),
        ] {
            assert_eq!(unix_listener(line, "/run/a b.sock"), inode, "{line}");
        }
    }

    #[test]
    fn addresses_are_in_the_way_of_each_other_or_not() {
        for (one, other, are) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:1", "0.0.0.0:1", true),
            ("127.0.0.1:1", "[::]:1", true),
            ("127.0.0.1:1", "[::1]:1", false),
            ("[::1]:1", "[::]:1", true),
            ("[::1]:1", "[::2]:1", false),
            ("[::1]:1", "0.0.0.0:1", false),
        ] {
            let (one, other) = (one.parse().expect("an address"), other.parse().expect("an address"));
            assert_eq!(is_in_the_way(one, other), are, "{one} {other}");
            assert_eq!(is_in_the_way(other, one), are, "{other} {one}");
        }
    }

    /// A listener of this process is nobody's here: it is the server itself that asks.
    #[test]
    fn a_bind_that_cannot_succeed_fails_soon() {
        let name = format!("ringback-occupied-{}", std::process::id());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let abstract_name = UnixAddr::from_abstract_name(&name).expect("a name");
        let _unix = UnixListener::bind_addr(&abstract_name).expect("a free name");
        let taken = Address::Ip(listener.local_addr().expect("it is bound"));
        for address in [taken, Address::Abstract(name)] {
            assert_eq!(holder(&address).expect("/proc is there"), Holder::Nobody);
            let mut attempts = 0;
            let refused = bind_in_time(&address, || {
                attempts += 1;
                let source = io::ErrorKind::AddrInUse.into();
                Err::<(), _>(StartError::Bind { address: address.clone(), option: "--listen", source })
            });
            assert!(refused.is_err_and(|error| is_in_use(&error)) && attempts == 2, "{attempts}");
        }
    }
}
