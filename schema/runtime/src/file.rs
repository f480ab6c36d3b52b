//! Files that others read while we replace them: certificates, keys, tokens, configuration.
//!
//! Guarantees: a reader sees the old content or the new one, never half of it, also after a crash or a power cut; a file
//! for its owner is never readable by others, not even while it is written.

use std::{
    fs::{File, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};
use tempfile::NamedTempFile;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Only its owner (mode 0600): keys, tokens, passwords.
    Owner,
    /// Everybody (mode 0644): certificates, configuration without secrets.
    Everybody,
}

impl Readers {
    const fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Everybody => 0o644,
        }
    }
}

/// Replaces the file as a whole: writes beside it, syncs, renames, and syncs the folder so that the rename lasts.
///
/// Blocks the thread for some milliseconds, as long as the disk takes.
///
/// # Errors
/// When the folder is missing or not writable, or the disk is full; the old file is untouched then.
pub fn replace(path: &Path, content: &[u8], readers: Readers) -> io::Result<()> {
    let folder = folder_of(path);
    write_beside(folder, content, readers)?.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

/// Creates the file as a whole, like [`replace`], and never touches one that exists.
///
/// # Errors
/// With [`io::ErrorKind::AlreadyExists`] when there is one, and as [`replace`] does.
pub fn create(path: &Path, content: &[u8], readers: Readers) -> io::Result<()> {
    let folder = folder_of(path);
    write_beside(folder, content, readers)?.persist_noclobber(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn write_beside(folder: &Path, content: &[u8], readers: Readers) -> io::Result<NamedTempFile> {
    let mut beside =
        tempfile::Builder::new().prefix(".kubenova-").permissions(Permissions::from_mode(0o600)).tempfile_in(folder)?;
    beside.write_all(content)?;
    // Set here, since the mode that a file is made with is cut by the process' umask.
    beside.as_file().set_permissions(Permissions::from_mode(readers.mode()))?;
    beside.as_file().sync_all()?;
    Ok(beside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_is_replaced_with_the_mode_that_was_asked_for_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for (content, readers, mode) in
            [("one", Readers::Everybody, 0o644), ("two", Readers::Owner, 0o600), ("", Readers::Everybody, 0o644)]
        {
            replace(&path, content.as_bytes(), readers).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        assert!(replace(&folder.path().join("missing/key"), b"x", Readers::Owner).is_err());
        // A folder cannot be replaced by a file.
        let taken = folder.path().join("taken");
        fs::create_dir(&taken).unwrap();
        assert!(replace(&taken, b"x", Readers::Owner).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the temporary file is gone");
    }

    #[test]
    fn a_created_file_is_whole_and_one_that_exists_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        create(&path, b"one", Readers::Owner).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = create(&path, b"two", Readers::Owner).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
