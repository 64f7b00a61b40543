//! Files that are written at the end of a run, and known to be writable at its beginning.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use crate::run::Failure;

/// A file to be written. Until then it keeps what it had, or is not there; and if that fails.
#[derive(Debug)]
pub(crate) struct OutputFile {
    /// As the user wrote it.
    path: PathBuf,
    way: Way,
}

/// How a file is written.
#[derive(Debug)]
enum Way {
    /// By another one of these permissions in the same folder, which takes its name.
    Replaced(PathBuf, Permissions),
    /// In its place: it is a device or a pipe, or nothing can be made in its folder.
    InPlace(File),
}

impl OutputFile {
    /// Looks whether the file can be written; nothing of it is left when the program ends before [`Self::write`].
    ///
    /// # Errors
    ///
    /// It cannot.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let way = Way::to(path).map_err(|error| Failure::Usage(cannot_write(path, &error)))?;
        Ok(Self { path: path.to_owned(), way })
    }

    /// Replaces what is in the file.
    ///
    /// # Errors
    ///
    /// It cannot be written any more: the disk may be full.
    pub(crate) fn write(self, content: &[u8]) -> Result<(), Failure> {
        let written = match self.way {
            Way::Replaced(path, permissions) => replace(&path, &permissions, content),
            Way::InPlace(file) => overwrite(file, content),
        };
        written.map_err(|error| Failure::Output(cannot_write(&self.path, &error)))
    }
}

impl Way {
    fn to(path: &Path) -> io::Result<Self> {
        let file = match OpenOptions::new().write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let permissions = Permissions::from_mode(NEW_FILE_MODE);
                beside(path, &permissions)?;
                return Ok(Self::Replaced(path.to_owned(), permissions));
            }
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        // Not the link that leads to it, but the file is replaced.
        let path = fs::canonicalize(path)?;
        let permissions = metadata.permissions();
        if metadata.is_file() && beside(&path, &permissions).is_ok() {
            return Ok(Self::Replaced(path, permissions));
        }
        Ok(Self::InPlace(file))
    }
}

/// A file in the same folder, which is gone when the value is.
fn beside(path: &Path, permissions: &Permissions) -> io::Result<NamedTempFile> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    // Less what the umask takes from them.
    Builder::new().prefix(".loadtest-").permissions(permissions.clone()).tempfile_in(folder).map_err(
        |error| {
            // Without the name of what was tried.
            error.raw_os_error().map_or(error, io::Error::from_raw_os_error)
        },
    )
}

fn replace(path: &Path, permissions: &Permissions, content: &[u8]) -> io::Result<()> {
    let mut file = beside(path, permissions)?;
    file.write_all(content)?;
    // Some file systems look for space only now.
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn overwrite(mut file: File, content: &[u8]) -> io::Result<()> {
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(content)
}

fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("cannot write {}: {error}", path.display())
}

/// What everybody gets whom the umask does not exclude, as from everything that makes files.
const NEW_FILE_MODE: u32 = 0o666;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// What is in a folder, and in its files.
    fn all(folder: &Path) -> Vec<(String, String)> {
        let mut all: Vec<_> = fs::read_dir(folder)
            .expect("it is there")
            .map(|entry| entry.expect("an entry"))
            .map(|entry| {
                let text = fs::read_to_string(entry.path()).expect("text");
                (entry.file_name().into_string().expect("text"), text)
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_file_keeps_what_it_has_until_it_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, link) = (folder.path().join("a"), folder.path().join("link"));
        fs::write(&path, "what was there, and was longer").expect("a folder for it");
        fs::set_permissions(&path, Permissions::from_mode(0o604)).expect("ours");
        symlink("a", &link).expect("a folder for it");
        let before = all(folder.path());
        let file = OutputFile::open(&link).expect("it is there");
        assert_eq!(all(folder.path()), before);
        file.write(b"new").expect("space");
        let named = |name: &str| (name.to_owned(), "new".to_owned());
        assert_eq!(all(folder.path()), [named("a"), named("link")]);
        assert!(fs::symlink_metadata(&link).expect("it is there").is_symlink());
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o604);
    }

    #[test]
    fn a_new_file_is_there_when_it_is_written_and_not_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = OutputFile::open(&folder.path().join("a")).expect("a folder for it");
        assert_eq!(all(folder.path()), []);
        file.write(b"new").expect("space");
        assert_eq!(all(folder.path()), [("a".to_owned(), "new".to_owned())]);
    }

    #[test]
    fn a_device_is_written_in_its_place() {
        OutputFile::open(Path::new("/dev/null")).expect("it is there").write(b"new").expect("space");
        let full = OutputFile::open(Path::new("/dev/full")).expect("it is there").write(b"new");
        assert!(matches!(full, Err(Failure::Output(_))), "{full:?}");
    }
}
