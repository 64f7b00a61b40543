//! Unix sockets in the file system: made without harm to what is there, and taken away when they are no longer used.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

/// How long to wait for another server that starts in the same directory.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// The file of a listening socket. It is removed when this is dropped, unless another one has come to its path.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// The file itself: as long as it is open, no other one has its number.
    file: File,
}

impl SocketFile {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        // Whatever directory the process may be in when it ends.
        Ok(Self { path: std::path::absolute(path)?, file })
    }

    fn is_there(&self) -> io::Result<bool> {
        let (ours, there) = (self.file.metadata()?, fs::symlink_metadata(&self.path)?);
        Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Without the lock another server could put its file here once this one has been looked at.
        let lock = lock_directory(&self.path);
        if lock.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            return tracing::warn!(
                path = %self.path.display(),
                "another server starts in this directory: the file of the socket is left behind"
            );
        }
        if self.is_there().is_ok_and(|is_there| is_there)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the file of the socket is left behind");
        }
    }
}

/// A listening socket at `path`, whose file has this mode: at no time may more be done with it. A socket that nobody
/// listens at any more is taken away first.
///
/// # Errors
///
/// Those of bind(2). [`io::ErrorKind::AddrInUse`] where somebody listens, [`io::ErrorKind::AlreadyExists`] where
/// something else than a socket is there.
pub(super) fn listen(path: &Path, mode: Option<u32>, backlog: i32) -> io::Result<(Socket, SocketFile)> {
    // Who cannot have the lock goes without it.
    let lock = lock_directory(path);
    remove_stale(path)?;
    let socket = bind(path, mode)?;
    let file = SocketFile::open(path)?;
    let listening = mode
        // The bits that the umask has taken.
        .map_or(Ok(()), |mode| fs::set_permissions(path, Permissions::from_mode(mode)))
        .and_then(|()| socket.listen(backlog));
    // The file of a failure takes the lock itself to be removed.
    drop(lock);
    listening.map(|()| (socket, file))
}

/// A socket bound to `path`. Its file is made with this mode, without the bits of the umask.
fn bind(path: &Path, mode: Option<u32>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    if let Some(mode) = mode {
        // That of the socket is the one that bind(2) begins with.
        let socket = File::from(OwnedFd::from(socket.try_clone()?));
        socket.set_permissions(Permissions::from_mode(mode))?;
    }
    socket.bind(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// Keeps others out who start or end at the same moment: one of them could take a socket for stale that is not listened at
/// yet, or remove one that has just come.
///
/// # Errors
///
/// [`io::ErrorKind::WouldBlock`] when others have it all the time; what keeps it from being locked at all.
fn lock_directory(path: &Path) -> io::Result<File> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(directory.unwrap_or(Path::new(".")))?;
    let began = Instant::now();
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(directory),
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_TIMEOUT => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes a socket that nobody listens at.
fn remove_stale(path: &Path) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        there => there?,
    };
    if !there.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "what is there is no socket"));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match probe.connect(&SockAddr::unix(path)?).map_err(|error| (Errno::from_io_error(&error), error)) {
        Err((Some(Errno::CONNREFUSED), _)) => fs::remove_file(path),
        // The queue is full, or it is one of another type.
        Ok(()) | Err((Some(Errno::AGAIN | Errno::PROTOTYPE), _)) => Err(Errno::ADDRINUSE.into()),
        // It went away meanwhile.
        Err((Some(Errno::NOENT), _)) => Ok(()),
        Err((_, error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    /// An empty directory, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ringback-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a directory");
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_is_stale_is_replaced_and_what_is_alive_or_something_else_is_not() {
        let scratch = Scratch::new("stale");
        let path = scratch.0.join("a.sock");
        drop(UnixListener::bind(&path).expect("a socket"));
        UnixStream::connect(&path).expect_err("nobody listens");
        let (_socket, file) = listen(&path, None, 1).expect("it was stale");
        UnixStream::connect(&path).expect("somebody listens");

        let alive = listen(&path, None, 1).expect_err("it is alive");
        assert_eq!(alive.kind(), io::ErrorKind::AddrInUse);
        // Without accepting: the queue is full.
        let _queued: Vec<_> = (0..3)
            .map(|_| {
                let client = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).expect("a socket");
                let _ = client.connect(&SockAddr::unix(&path).expect("short"));
                client
            })
            .collect();
        assert_eq!(listen(&path, None, 1).expect_err("it is alive").kind(), io::ErrorKind::AddrInUse);
        drop(file);
        assert!(!path.exists());

        let _datagrams = UnixDatagram::bind(&path).expect("a socket");
        assert_eq!(listen(&path, None, 1).expect_err("of another type").kind(), io::ErrorKind::AddrInUse);
        fs::remove_file(&path).expect("it is there");
        fs::write(&path, "precious").expect("a file");
        assert_eq!(listen(&path, None, 1).expect_err("a file").kind(), io::ErrorKind::AlreadyExists);
        let link = scratch.0.join("link.sock");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        assert_eq!(listen(&link, None, 1).expect_err("a link").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "precious");
    }

    #[test]
    fn a_file_is_never_open_to_more_than_its_mode_says() {
        let scratch = Scratch::new("mode");
        let path = scratch.0.join("a.sock");
        let mode = |path: &Path| fs::symlink_metadata(path).expect("a file").mode() & 0o777;
        let _bound = bind(&path, None).expect("a free path");
        let by_umask = mode(&path);
        fs::remove_file(&path).expect("it is there");
        let narrow = 0o400;
        assert_ne!(by_umask & !narrow, 0, "the umask alone would allow more");
        let _bound = bind(&path, Some(narrow)).expect("a free path");
        assert_eq!(mode(&path) & !narrow, 0, "before anything else is done to it");
    }

    #[test]
    fn a_file_that_has_come_to_the_path_since_is_left_there() {
        let scratch = Scratch::new("successor");
        let path = scratch.0.join("a.sock");
        let (socket, file) = listen(&path, None, 1).expect("a free path");
        drop(socket);
        // Nobody listens any more, so this one takes the path over.
        let (_successor, successors) = listen(&path, None, 1).expect("it is stale");
        drop(file);
        UnixStream::connect(&path).expect("the successor's is there");
        drop(successors);
        assert!(!path.exists());
    }

    #[test]
    fn of_servers_that_come_and_go_none_removes_the_file_of_another() {
        let scratch = Scratch::new("coming-and-going");
        let path = scratch.0.join("a.sock");
        let serve = || {
            let Ok((socket, file)) = listen(&path, None, 8) else { return false };
            for _ in 0..20 {
                assert!(file.is_there().is_ok_and(|is_there| is_there), "its file is there while it listens");
                thread::yield_now();
            }
            // As at the end of a server: nobody listens any more, and so another one may take the path over.
            drop(socket);
            drop(file);
            true
        };
        let served: usize = thread::scope(|scope| {
            let servers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..200).filter(|_| serve()).count())).collect();
            servers.into_iter().map(|server| server.join().expect("no file was removed")).sum()
        });
        assert!(served >= 4, "{served} have served");
    }

    #[test]
    fn a_file_is_not_removed_while_another_server_starts() {
        let scratch = Scratch::new("starting");
        let path = scratch.0.join("a.sock");
        let (socket, file) = listen(&path, None, 8).expect("a free path");
        drop(socket);
        let lock = lock_directory(&path).expect("a lock");
        thread::scope(|scope| {
            let ending = scope.spawn(|| drop(file));
            thread::sleep(LOCK_TIMEOUT / 10);
            assert!(!ending.is_finished() && path.exists(), "it waits for the lock");
            // Whoever starts puts another file there.
            fs::remove_file(&path).expect("it is there");
            let _successor = UnixListener::bind(&path).expect("a free path");
            drop(lock);
            ending.join().expect("no panic");
            UnixStream::connect(&path).expect("the successor's file is there");
        });
    }

    #[test]
    fn of_servers_that_start_at_the_same_moment_one_has_the_socket() {
        let scratch = Scratch::new("race");
        let path = scratch.0.join("a.sock");
        for _ in 0..100 {
            drop(UnixListener::bind(&path).expect("a socket"));
            let started: Vec<_> = thread::scope(|scope| {
                let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| listen(&path, None, 8))).collect();
                starts.into_iter().filter_map(|start| start.join().expect("no panic").ok()).collect()
            });
            assert_eq!(started.len(), 1, "one has the socket");
            UnixStream::connect(&path).expect("and its file is there");
        }
    }
}
