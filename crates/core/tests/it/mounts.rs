//! Disks that fail, for tests: each runs itself again as a process with a name space of its own, where anybody may mount what nobody
//! else sees.
//!
//! Without FUSE there are no disks that hang or answer with errors: such a test then says that it was left out, and fails where `CI` is
//! `true`, as those do whose servers are missing.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::path::Path;
use std::process::Command;

/// Where the folder is, told to the process that may mount.
const TOLD: &str = "HEADWATER_TEST_MOUNTS";
/// There is no FUSE.
const NO_FUSE: i32 = 77;
/// Where a process finds it: mounts are told its number.
const FUSE: i32 = 3;

/// Runs `test` with a folder that has a small file system of its own: `size` as `mount` takes it.
pub(crate) fn with_a_small_disk(name: &str, size: &str, test: impl FnOnce(&Path)) {
    apart(name, &format!("mount -t tmpfs -o size={size} none \"${TOLD}\" && exec \"$@\""), test);
}

/// Runs `test` with a folder, where parts of it may [hang](hang).
pub(crate) fn with_fuse(name: &str, test: impl FnOnce(&Path)) {
    apart(name, "(exec 3<>/dev/fuse) 2>/dev/null || exit 77; exec 3<>/dev/fuse; exec \"$@\"", test);
}

fn apart(name: &str, script: &str, test: impl FnOnce(&Path)) {
    if let Some(place) = std::env::var_os(TOLD) {
        return test(Path::new(&place));
    }
    let (dir, program) = (tempfile::tempdir().expect("a folder"), std::env::current_exe().expect("this program"));
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(program);
    let done = command.args(["--exact", name, "--nocapture"]).env(TOLD, dir.path()).output().expect("runs");
    if done.status.code() == Some(NO_FUSE) {
        let words = format!("{name} needs FUSE: /dev/fuse cannot be opened");
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{words}");
        // Not what is kept from whoever looks at a test that passed.
        let _ = writeln!(std::io::stderr(), "left out: {words}");
        return;
    }
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

/// From now on, whatever is below a folder hangs.
pub(crate) fn hang(place: &Path) {
    shell("mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 none \"$1\"", place);
}

/// From now on, whatever is below a folder is an error of the device, as of a disk that broke.
pub(crate) fn break_down(place: &Path) {
    hang(place);
    std::thread::spawn(answer_with_errors);
}

/// What was there is there again.
pub(crate) fn mend(place: &Path) {
    shell("umount -i -l \"$1\"", place);
}

/// From now on, whatever is below a folder can only be read.
pub(crate) fn make_read_only(place: &Path) {
    shell("mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\"", place);
}

fn shell(script: &str, place: &Path) {
    let status = Command::new("sh").args(["-c", script, "sh"]).arg(place).status().expect("runs");
    assert!(status.success(), "{script}");
}

/// Speaks as much of FUSE as that takes: it accepts the mount, and says `EIO` to all else.
#[allow(unsafe_code)]
fn answer_with_errors() {
    const HEADER: usize = 16;
    const FORGET: u32 = 2;
    const INIT: u32 = 26;
    const INTERRUPT: u32 = 36;
    const BATCH_FORGET: u32 = 42;
    // SAFETY: the process was started with it, and nobody else uses it.
    let mut fuse = unsafe { File::from_raw_fd(FUSE) };
    let mut request = vec![0; 256 << 10];
    // Until it is unmounted.
    while fuse.read(&mut request).is_ok() {
        let number = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().expect("four bytes"));
        let mut answer = vec![0; HEADER];
        answer[8..].copy_from_slice(&request[8..16]);
        match number(4) {
            FORGET | BATCH_FORGET | INTERRUPT => continue,
            INIT => {
                // Version 7.31, no extras, the least that may be written at once.
                answer.resize(HEADER + 64, 0);
                answer[16..24].copy_from_slice(&[7, 0, 0, 0, 31, 0, 0, 0]);
                answer[36..40].copy_from_slice(&4096_u32.to_le_bytes());
            }
            _ => answer[4..8].copy_from_slice(&(-libc::EIO).to_le_bytes()),
        }
        let total = answer.len() as u32;
        answer[..4].copy_from_slice(&total.to_le_bytes());
        // Who asked may have gone.
        let _ = fuse.write(&answer);
    }
}
