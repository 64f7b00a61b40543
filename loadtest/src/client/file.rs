//! Messages from a file.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::Path;

use crate::client::sizes::SIZE_MAX;
use crate::client::traffic::Kind;

/// The messages of a file, in their order; at least one.
#[derive(Debug)]
pub(crate) struct FileMessages {
    /// [`Kind::Text`] or [`Kind::Binary`].
    pub(super) kind: Kind,
    /// The file's bytes.
    pub(super) block: Vec<u8>,
    /// Where each message lies in it.
    pub(super) ranges: Vec<Range<usize>>,
}

/// Why a file has no messages.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// It cannot be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// More bytes than a run keeps.
    #[error("it is larger than 1GiB, the most that is kept in memory")]
    TooLarge,
    /// No line.
    #[error("it is empty: a message is a line")]
    Empty,
    /// More lines than a run keeps.
    #[error("line {}: at most {LINES_MAX} lines are taken", LINES_MAX + 1)]
    Lines,
    /// A line that is no text.
    #[error(
        "line {line}: byte {byte} of it is not UTF-8, and a text message has to be (RFC 6455 §5.6); --payload sends any bytes"
    )]
    Text {
        /// From 1 on.
        line: usize,
        /// From 1 on.
        byte: usize,
    },
}

impl FileMessages {
    /// A text message for each line, without the end of the line, which is LF or CR LF. An empty line is an empty message;
    /// what follows the last LF is a message unless it is empty.
    ///
    /// # Errors
    ///
    /// Why there are none.
    pub(crate) fn lines(path: &Path) -> Result<Self, FileError> {
        Self::split(read(path)?)
    }

    /// One binary message: the whole file.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is too large.
    pub(crate) fn payload(path: &Path) -> Result<Self, FileError> {
        let block = read(path)?;
        let ranges = std::iter::once(0..block.len()).collect();
        Ok(Self { kind: Kind::Binary, block, ranges })
    }

    fn split(block: Vec<u8>) -> Result<Self, FileError> {
        let mut ranges = Vec::new();
        let mut start = 0;
        for line in block.split_inclusive(|&byte| byte == b'\n') {
            let text = line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line));
            if ranges.len() == LINES_MAX {
                return Err(FileError::Lines);
            }
            if let Err(error) = std::str::from_utf8(text) {
                return Err(FileError::Text { line: ranges.len() + 1, byte: error.valid_up_to() + 1 });
            }
            ranges.push(start..start + text.len());
            start += line.len();
        }
        if ranges.is_empty() {
            return Err(FileError::Empty);
        }
        Ok(Self { kind: Kind::Text, block, ranges })
    }
}

#[cfg(test)]
impl FileMessages {
    /// Those of a file with these lines.
    pub(crate) fn of_lines(lines: &[String]) -> Self {
        Self::split((lines.join("\n") + "\n").into_bytes()).expect("messages")
    }
}

/// What is in a file, or comes out of a pipe.
fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let mut file = File::open(path)?;
    let expected = file.metadata()?.len();
    if expected > SIZE_MAX as u64 {
        return Err(FileError::TooLarge);
    }
    let mut bytes = Vec::new();
    let room = usize::try_from(expected).unwrap_or(SIZE_MAX);
    bytes.try_reserve_exact(room).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    file.by_ref().take(SIZE_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > SIZE_MAX {
        return Err(FileError::TooLarge);
    }
    Ok(bytes)
}

/// The most messages of a file.
const LINES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(bytes: impl Into<Vec<u8>>) -> Result<Vec<String>, String> {
        let FileMessages { block, ranges, .. } =
            FileMessages::split(bytes.into()).map_err(|error| error.to_string())?;
        Ok(ranges.into_iter().map(|range| String::from_utf8(block[range].to_vec()).expect("text")).collect())
    }

    #[test]
    fn a_line_is_a_message() {
        for (bytes, expected) in [
            (&b"a\nb\n"[..], &["a", "b"][..]),
            (b"a\nb", &["a", "b"]),
            (b"a\r\nb\r\n", &["a", "b"]),
            (b"a\rb\r\r\n", &["a\rb\r"]),
            (b"a\r", &["a\r"]),
            (b"\n", &[""]),
            (b"a\n\n\nb\n\n", &["a", "", "", "b", ""]),
            ("ä€😀\n".as_bytes(), &["ä€😀"]),
        ] {
            assert_eq!(texts(bytes), Ok(expected.iter().map(|&line| line.to_owned()).collect()), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_text_is_told_with_its_place() {
        assert_eq!(texts("").expect_err("empty"), "it is empty: a message is a line");
        for (bytes, place) in [
            (&b"a\nbc\xff\n"[..], "line 2: byte 3 "),
            (b"\xc3\n\xa4", "line 1: byte 1 "),
            (b"a\nb\n\xed\xa0\x80", "line 3: byte 1 "),
        ] {
            let told = texts(bytes).expect_err("no text");
            assert!(told.starts_with(place), "{told}");
        }
        let many = "\n".repeat(LINES_MAX);
        assert_eq!(texts(many.as_str()).map(|lines| lines.len()), Ok(LINES_MAX));
        assert_eq!(texts(many + "x").expect_err("too many"), "line 1048577: at most 1048576 lines are taken");
    }
}
