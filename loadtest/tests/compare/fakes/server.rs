//! Servers of a few lines.

use std::env;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGTERM, SIGUSR1};

/// `fake-server PORT FOLDER [DOES]`: leaves a file named by its pid in the folder, and echoes bytes.
///
/// `dies` ends it at the second connection after the one that found it listening, `counts` has it log on SIGUSR1, late,
/// how many there were, `deaf` does not listen, `wrong` flips a bit in every echo, `stubborn` does not end on SIGTERM.
pub(crate) fn serve() -> ExitCode {
    let arguments: Vec<_> = env::args().collect();
    let does = |what: &str| arguments.get(3).is_some_and(|does| does == what);
    let is_told = Arc::new(AtomicBool::new(false));
    if does("counts") {
        signal_hook::flag::register(SIGUSR1, Arc::clone(&is_told)).expect("a handler");
    }
    if does("stubborn") {
        signal_hook::flag::register(SIGTERM, Arc::default()).expect("a handler");
    }
    File::create(PathBuf::from(&arguments[2]).join(std::process::id().to_string())).expect("a folder");
    if does("deaf") {
        println!("why listen?");
        loop {
            thread::park();
        }
    }
    let accepted = Arc::new(AtomicU64::new(0));
    let listener = TcpListener::bind(format!("127.0.0.1:{}", arguments[1])).expect("a free port");
    let (dies, flips) = (does("dies"), does("wrong"));
    let counted = Arc::clone(&accepted);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if counted.fetch_add(1, Ordering::SeqCst) == 2 && dies {
                eprintln!("the server's last words");
                std::process::exit(3);
            }
            thread::spawn(move || echo(stream, flips));
        }
    });
    loop {
        thread::sleep(Duration::from_millis(5));
        if is_told.swap(false, Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(100));
            let accepted = accepted.load(Ordering::SeqCst);
            println!("12:00 INFO counters: accepted={accepted} enters={} (since the start)", 3 * accepted);
        }
    }
}

/// `ringback --listen ADDRESS …`, or the other that the demo starts: a correct echo of messages.
pub(crate) fn serve_tungstenite() -> ExitCode {
    let arguments: Vec<_> = env::args().collect();
    assert_eq!(arguments[1], "--listen");
    let listener = TcpListener::bind(&arguments[2]).expect("a free port");
    for stream in listener.incoming().map_while(Result::ok) {
        thread::spawn(move || {
            let Ok(mut socket) = tungstenite::accept(stream) else { return };
            while let Ok(message) = socket.read() {
                if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
                    break;
                }
            }
        });
    }
    ExitCode::SUCCESS
}

fn echo(mut stream: TcpStream, flips: bool) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        if flips {
            buffer[len - 1] ^= 1;
        }
        stream.write_all(&buffer[..len])?;
    }
}
