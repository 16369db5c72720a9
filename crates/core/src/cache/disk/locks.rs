//! Locks on bytes of one file, which processes hold and lose with their end, however that comes.
//!
//! POSIX record locks: a child that was forked holds none of its parent's, a process that was killed none at all. A process never
//! excludes itself, and loses every lock of a file when it closes any descriptor of it: the file is opened once per process and
//! stays open.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::access::Access;

/// The byte that guards the ledger.
pub(super) const LEDGER: u64 = 0;
/// Who counts what sets hold, for all.
pub(super) const COUNTING: u64 = 1;
/// A byte per process that keeps reservations.
pub(super) const PROCESSES: u64 = 1 << 12;
/// A byte per set, shared by the processes that use it.
pub(super) const SETS: u64 = 1 << 14;
/// A place per process, by its row: how long its lock there is tells what it has taken, should the ledger lose that.
const TAKEN: u64 = 1 << 50;
/// Bytes between such places: more blocks than any disk has.
const TAKEN_PLACE: u64 = 1 << 40;
/// A place per object, by its hash: who holds it fetches the object. How long the lock is there tells which process that is.
const FLIGHTS: u64 = 1 << 62;
/// Bytes between such places: more than a lock is long, so that two never become one.
const FLIGHT: u64 = 1 << 10;
/// A lock of the first process is so long, of the next ones each a byte longer.
const FIRST_OWNER: u64 = 2;

/// How a byte is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Shared,
    Exclusive,
}

/// The file.
#[derive(Debug)]
pub(super) struct Locks {
    file: File,
}

impl Locks {
    pub(super) fn open(path: &Path, access: Access) -> io::Result<Self> {
        Ok(Self { file: access.open_or_make(path)? })
    }

    /// Whether the file is what is found by that path: folders are removed, renamed, and mounted over.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        is_at(&self.file, path)
    }

    /// Takes a byte; `false` while another process has it.
    pub(super) fn try_lock(&self, at: u64, kind: Kind) -> io::Result<bool> {
        let kind = match kind {
            Kind::Shared => libc::F_RDLCK,
            Kind::Exclusive => libc::F_WRLCK,
        };
        self.try_range(kind, at, 1)
    }

    /// Says to others how many blocks this process has taken.
    pub(super) fn say_taken(&self, process: usize, blocks: u64) -> io::Result<()> {
        let (at, len) = (TAKEN + process as u64 * TAKEN_PLACE, (blocks + 1).min(TAKEN_PLACE - 1));
        self.try_range(libc::F_WRLCK, at, len)?;
        self.control(libc::F_SETLK, libc::F_UNLCK, at + len, TAKEN_PLACE - len).map(drop)
    }

    /// How many blocks another process has taken, if it is there and says so.
    pub(super) fn taken(&self, process: usize) -> io::Result<Option<u64>> {
        let lock = self.control(libc::F_GETLK, libc::F_WRLCK, TAKEN + process as u64 * TAKEN_PLACE, 1)?;
        let is_held = i32::from(lock.l_type) != libc::F_UNLCK;
        Ok(lock.l_len.cast_unsigned().checked_sub(1).filter(|_| is_held))
    }

    /// Takes the place of an object for a process; `false` while another one has it.
    pub(super) fn try_fly(&self, at: u64, process: usize) -> io::Result<bool> {
        self.try_range(libc::F_WRLCK, at, FIRST_OWNER + process as u64)
    }

    /// Gives the place of an object back.
    pub(super) fn land(&self, at: u64) {
        // Fails only for a file that is no file.
        let _ = self.control(libc::F_SETLK, libc::F_UNLCK, at, FLIGHT);
    }

    /// Which other process has the place of an object, if one has and says so.
    pub(super) fn who_flies(&self, at: u64) -> Option<usize> {
        let lock = self.control(libc::F_GETLK, libc::F_WRLCK, at, 1).ok()?;
        let is_held = i32::from(lock.l_type) != libc::F_UNLCK;
        let owner = lock.l_len.cast_unsigned().checked_sub(FIRST_OWNER);
        owner.filter(|_| is_held).map(|owner| owner as usize)
    }

    fn try_range(&self, kind: i32, at: u64, len: u64) -> io::Result<bool> {
        match self.control(libc::F_SETLK, kind, at, len) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives a byte back.
    pub(super) fn unlock(&self, at: u64) {
        // Fails only for a file that is no file.
        let _ = self.control(libc::F_SETLK, libc::F_UNLCK, at, 1);
    }

    /// Whether another process has a byte, in whatever way.
    pub(super) fn is_held_elsewhere(&self, at: u64) -> io::Result<bool> {
        self.are_held_elsewhere(at, 1)
    }

    /// Whether another process has any of some bytes.
    pub(super) fn are_held_elsewhere(&self, at: u64, len: u64) -> io::Result<bool> {
        Ok(i32::from(self.control(libc::F_GETLK, libc::F_WRLCK, at, len)?.l_type) != libc::F_UNLCK)
    }

    #[allow(unsafe_code)]
    fn control(&self, command: i32, kind: i32, at: u64, len: u64) -> io::Result<libc::flock> {
        let mut lock = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: at.cast_signed(),
            l_len: len.cast_signed(),
            l_pid: 0,
        };
        // SAFETY: the descriptor is open, and the call reads and writes only `lock`.
        let done = unsafe { libc::fcntl(self.file.as_raw_fd(), command, &raw mut lock) };
        if done == -1 { Err(io::Error::last_os_error()) } else { Ok(lock) }
    }
}

/// Whether an open file is what is found by a path. That is looked at and not opened, which would cost the locks.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let of = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    file.metadata().is_ok_and(|held| path.metadata().is_ok_and(|found| of(held) == of(found)))
}

/// The place of an object with this hash.
pub(super) fn flight(hash: u128) -> u64 {
    FLIGHTS + (hash as u64 >> 2) / FLIGHT * FLIGHT
}
