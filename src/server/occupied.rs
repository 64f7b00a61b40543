//! Addresses that are in use only because the kernel has not freed them yet.
//!
//! The rings of a killed process outlive it for a moment: the kernel ends their operations later, by a worker of its own
//! (io_ring_exit_work). Until then a pending accept keeps the listening socket open. The socket still listens, so a
//! connection to it succeeds and tells nothing; but no process has it any more.
//!
//! What cannot be seen counts as abandoned where it may be: a live server of the same user in another PID namespace, or
//! one with capabilities of its own, is told from a killed one by time only.

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

/// Who has an address.
#[derive(Debug, PartialEq, Eq)]
enum Holder {
    /// A process, or one that cannot be seen.
    Process,
    /// The kernel, for a process that is no more.
    Kernel,
    /// No listening socket is there.
    Nobody,
}

/// Calls `bind`, again for two seconds where `address` is in use and no process listens there.
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
            // It has gone since `bind` has met it. Twice in a row something else is in the way.
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

/// Who listens at `address`.
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

/// The inodes of a process's sockets; none where they cannot be seen.
fn sockets_of(process: &str) -> HashSet<u64> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else { return HashSet::new() };
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets
        .filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

/// The listening sockets that are in the way of `address`, with their owners (proc_net_tcp(5)).
fn tcp_listeners(address: SocketAddr) -> io::Result<Vec<(u64, u32)>> {
    let mut found = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let table = match File::open(table) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            table => BufReader::new(table?),
        };
        for line in table.lines().skip(1) {
            // Those that listen come first, and of the others there may be very many.
            let Some((other, inode, owner)) = listener(&line?) else { break };
            if is_in_the_way(address, other) {
                found.push((inode, owner));
            }
        }
    }
    Ok(found)
}

/// A line of the table: where a socket listens, its inode and its owner; `None` where it does not listen.
fn listener(line: &str) -> Option<(SocketAddr, u64, u32)> {
    const LISTEN: &str = "0A";
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let [_, local, _, LISTEN, _, _, _, owner, _, inode, ..] = fields[..] else { return None };
    let (ip, port) = local.split_once(':')?;
    // Words in the order of the machine.
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

/// Whether a listener at `other` keeps one from `address`. One at `[::]` may take IPv4 or not: the table does not say.
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

/// As [`tcp_listeners`], of the unix socket of this name.
fn unix_listeners(name: &str, owner: u32) -> io::Result<Vec<(u64, u32)>> {
    let table = fs::read("/proc/net/unix")?;
    let table = String::from_utf8_lossy(&table);
    Ok(table.lines().filter_map(|line| unix_listener(line, name)).map(|inode| (inode, owner)).collect())
}

/// The inode in a line of the table, where that is of a listening socket of this name.
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
