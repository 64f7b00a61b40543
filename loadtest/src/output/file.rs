//! Files that are written at the end of a run, and known to be writable at its beginning.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::run::Failure;

/// A file to be written. Until then it keeps what it had.
#[derive(Debug)]
pub(crate) struct OutputFile {
    path: PathBuf,
    file: File,
}

impl OutputFile {
    /// Opens the file, or makes an empty one.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| Failure::Usage(cannot_write(path, &error)))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Replaces what is in the file.
    ///
    /// # Errors
    ///
    /// It cannot be written any more: the disk may be full.
    pub(crate) fn write(mut self, content: &[u8]) -> Result<(), Failure> {
        let is_regular = self.file.metadata().is_ok_and(|metadata| metadata.is_file());
        let emptied = if is_regular { self.file.set_len(0) } else { Ok(()) };
        emptied
            .and_then(|()| self.file.write_all(content))
            .map_err(|error| Failure::Output(cannot_write(&self.path, &error)))
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_what_it_has_until_it_is_written() {
        let path = std::env::temp_dir().join(format!("loadtest-file-{}", std::process::id()));
        std::fs::write(&path, "what was there, and was longer").expect("a folder for it");
        let file = OutputFile::open(&path).expect("it is there");
        assert_eq!(std::fs::read_to_string(&path).expect("text"), "what was there, and was longer");
        file.write(b"new").expect("space");
        assert_eq!(std::fs::read_to_string(&path).expect("text"), "new");
        std::fs::remove_file(&path).expect("it is there");
    }
}
