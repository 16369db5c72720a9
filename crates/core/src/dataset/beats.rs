//! Telling other processes that what this one fetches for all is on its way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::cache::disk::Disk;
use crate::engine::Engine;
use crate::source;

/// How often they are told: several times in what they wait for one that says nothing.
const EVERY: Duration = Duration::from_millis(250);
/// Sources that send nothing for so long are nothing to wait for: longer than a turn of many takes at a line that is shared.
pub(super) const SILENT: Duration = Duration::from_secs(10);

/// Tells them as long as there is anything to wait for.
#[derive(Debug, Default)]
pub(super) struct Beats {
    is_told: Arc<AtomicBool>,
}

impl Beats {
    /// There is something to wait for.
    pub(super) fn begin(&self, disk: &Arc<Disk>) {
        if !self.is_told.swap(true, Ordering::AcqRel) {
            match Engine::current() {
                Ok(engine) => drop(engine.spawn(tell(disk.clone(), self.is_told.clone()))),
                Err(_) => self.is_told.store(false, Ordering::Release),
            }
        }
    }
}

/// What has come so far, of what sources send and of what was fetched for all.
pub(super) fn come(disk: &Disk) -> (u64, u64) {
    (source::received(), disk.flights().1)
}

async fn tell(disk: Arc<Disk>, is_told: Arc<AtomicBool>) {
    loop {
        let (mut before, mut since) = (come(&disk), Instant::now());
        while disk.flights().0 > 0 {
            let now = come(&disk);
            if now != before {
                (before, since) = (now, Instant::now());
            }
            if since.elapsed() < SILENT {
                let disk = disk.clone();
                // One at a time, however long the disk takes.
                let _ = spawn_blocking(move || disk.beat()).await;
            }
            sleep(EVERY).await;
        }
        is_told.store(false, Ordering::Release);
        // Unless something began meanwhile.
        if disk.flights().0 == 0 || is_told.swap(true, Ordering::AcqRel) {
            return;
        }
    }
}
