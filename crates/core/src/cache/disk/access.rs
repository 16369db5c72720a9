//! Who may use what is kept: its owner alone, and besides whom the folder itself lets write in it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

const OWNERS: u32 = 0o600;
const WRITTEN_BY_OTHERS: u32 = 0o022;
const READ_BY_ANY: u32 = 0o444;
/// Whose group new files have, and the like.
const SPECIAL: u32 = 0o7000;

/// What files of a folder may be used for, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    mode: u32,
}

impl Access {
    pub(super) fn in_folder(root: &Path) -> io::Result<Self> {
        let others = fs::metadata(root)?.mode() & WRITTEN_BY_OTHERS;
        // Who writes there reads there, too.
        Ok(Self { mode: OWNERS | others | others << 1 })
    }

    /// How to make a file. What a link leads to is not ours, and what is no file keeps nobody waiting.
    pub(super) fn options(self) -> OpenOptions {
        let mut options = File::options();
        options.mode(self.mode).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        options
    }

    /// Opens a file to read and write, or makes it. One that is there is not asked to be made: in a folder that is everybody's the
    /// system may refuse that to whoever does not own the file.
    pub(super) fn open_or_make(self, path: &Path) -> io::Result<File> {
        let open = || self.options().read(true).write(true).open(path);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match self.options().read(true).write(true).create_new(true).open(path) {
                    // By another process, meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open(),
                    made => made,
                }
            }
            opened => opened,
        }?;
        self.grant(&file);
        Ok(file)
    }

    /// Lets those use a file that was made whom this process keeps out of what it makes (its umask).
    pub(super) fn grant(self, file: &File) {
        if self.mode != OWNERS {
            // Whose file it is not may not, and need not. One with another name is somebody's else.
            if file.metadata().is_ok_and(|meta| !meta.is_file() || meta.nlink() > 1) {
                return;
            }
            let _ = file.set_permissions(Permissions::from_mode(self.mode));
        }
    }

    /// Makes a folder in one that is there: a path that is gone is not made again.
    pub(super) fn make_folder(self, path: &Path) -> io::Result<()> {
        let mode = self.mode | (self.mode & READ_BY_ANY) >> 2;
        match DirBuilder::new().mode(mode).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            made => made?,
        }
        if self.mode != OWNERS {
            let special = fs::metadata(path)?.mode() & SPECIAL;
            fs::set_permissions(path, Permissions::from_mode(special | mode))?;
        }
        Ok(())
    }
}

/// Makes a folder for records, for this user alone. One that is there stays as it is.
pub(super) fn make_root(root: &Path) -> io::Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    if let Some(above) = root.parent() {
        fs::create_dir_all(above)?;
    }
    Access { mode: OWNERS }.make_folder(root)
}
