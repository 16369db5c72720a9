//! What time it is, for what expires.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::time::ClockId;
use xxhash_rust::xxh3::xxh3_64;

use crate::per_process::PerProcess;

/// A clock that never goes back. The process's own is not the one on the wall, so that setting that one changes nothing.
#[derive(Clone)]
pub struct Clock(Kind);

#[derive(Clone)]
enum Kind {
    /// When it began, after the start of the machine.
    Own(Duration),
    /// Nanoseconds, and when it was at first.
    Manual(Arc<AtomicU64>, Moment),
}

impl Default for Clock {
    fn default() -> Self {
        Self(Kind::Own(since_boot()))
    }
}

impl Clock {
    /// One that stands still until it is [put forward](Clock::advance).
    pub fn manual() -> Self {
        Self::at(Moment::now())
    }

    /// The same, beginning at a moment.
    pub fn at(moment: Moment) -> Self {
        Self(Kind::Manual(Arc::default(), moment))
    }

    /// Puts a manual clock and all its clones forward; changes no other.
    pub fn advance(&self, by: Duration) {
        if let Kind::Manual(now, _) = &self.0 {
            now.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
        }
    }

    /// Time since it began.
    pub fn now(&self) -> Duration {
        match &self.0 {
            Kind::Own(began) => since_boot().saturating_sub(*began),
            Kind::Manual(now, _) => Duration::from_nanos(now.load(Ordering::SeqCst)),
        }
    }
}

impl Clock {
    /// What time it is for other processes, too.
    pub fn moment(&self) -> Moment {
        match &self.0 {
            Kind::Own(_) => Moment::now(),
            Kind::Manual(_, began) => began.after(self.now()),
        }
    }
}

/// A moment, of which other processes can tell how long ago it was.
///
/// By the time since the machine was started, which nobody can set; by the clock on the wall, which may be, only after it was
/// started anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// What the clock on the wall said.
    pub wall: SystemTime,
    /// Which start of the machine it came after; 0 where that cannot be told.
    pub boot: u64,
    /// How long after that, sleep included.
    pub since_boot: Duration,
}

impl Moment {
    /// The present one.
    pub fn now() -> Self {
        Self { wall: SystemTime::now(), boot: boot(), since_boot: since_boot() }
    }

    /// The one so much later.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self { wall: self.wall + time, since_boot: self.since_boot + time, ..self }
    }

    fn is_of_one_boot(&self, other: &Self) -> bool {
        self.boot == other.boot && self.boot != 0
    }

    /// How long ago an earlier one was, or longer; [`Duration::MAX`] where nobody knows.
    pub fn age_of(&self, earlier: &Self) -> Duration {
        if self.is_of_one_boot(earlier) {
            // A machine that was put back to an earlier state (a snapshot of a virtual one) has such moments before it, whenever they were.
            return self.since_boot.checked_sub(earlier.since_boot).unwrap_or(Duration::MAX);
        }
        // What comes from the future was noted by a clock that was wrong.
        let age = self.wall.duration_since(earlier.wall).unwrap_or(Duration::MAX);
        // It was before the machine was started, whatever the clock said.
        if self.boot == 0 { age } else { age.max(self.since_boot) }
    }

    /// Whether it is known to be no earlier than another one.
    pub fn is_since(&self, other: &Self) -> bool {
        self.is_of_one_boot(other) && self.since_boot >= other.since_boot
    }
}

/// Time since the machine was started, its sleep included: what expires does so meanwhile.
pub(crate) fn since_boot() -> Duration {
    rustix::time::clock_gettime(ClockId::Boottime).try_into().unwrap_or_default()
}

/// Which start of the machine this is, and whose clock tells the time since; 0 where that cannot be told.
fn boot() -> u64 {
    starts().map_or(0, |starts| starts.of_clock)
}

/// Which start of the machine this is; 0 where that cannot be told.
pub(crate) fn start() -> u64 {
    starts().map_or(0, |starts| starts.of_machine)
}

#[derive(Clone, Copy)]
struct Starts {
    of_machine: u64,
    of_clock: u64,
}

fn starts() -> Option<Starts> {
    static STARTS: PerProcess<Option<Starts>> = PerProcess::new();
    let find = || {
        let boot = fs::read("/proc/sys/kernel/random/boot_id").ok()?;
        // A container may have a clock of its own, which others know nothing of.
        let clock = fs::read_link("/proc/self/ns/time").unwrap_or_default();
        let of_clock = xxh3_64(&[&boot, clock.as_os_str().as_encoded_bytes()].concat()).max(1);
        Some(Starts { of_machine: xxh3_64(&boot).max(1), of_clock })
    };
    STARTS.get_or_try_init(|| Ok(find())).copied().unwrap_or_default()
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn how_long_ago_a_moment_was_is_told_by_a_clock_that_nobody_sets() {
        let now = Moment::now();
        assert!(now.boot != 0 && now.since_boot > Duration::ZERO && Moment::now().is_since(&now));
        for wall in [now.wall - 5 * HOUR, now.wall, now.wall + 5 * HOUR] {
            let then = Moment { wall, ..now };
            assert_eq!(now.after(HOUR).age_of(&then), HOUR);
            assert!(now.after(HOUR).is_since(&then) && !then.is_since(&now.after(HOUR)));
        }
        assert_eq!(now.age_of(&now), Duration::ZERO);
        assert_eq!(now.age_of(&now.after(HOUR)), Duration::MAX, "the machine was put back");
    }

    #[test]
    fn the_time_that_a_machine_sleeps_counts() {
        let uptime = || {
            let told = fs::read_to_string("/proc/uptime").expect("told");
            Duration::from_secs_f64(told.split(' ').next().and_then(|word| word.parse().ok()).expect("seconds"))
        };
        // What the kernel says to that includes sleep; it says so to the hundredth.
        let (before, now, after) = (uptime(), since_boot(), uptime() + Duration::from_millis(10));
        assert!(before <= now && now <= after, "{before:?} {now:?} {after:?}");
    }

    #[test]
    fn of_what_was_before_the_machine_was_started_the_clock_on_the_wall_tells_if_that_can_be() {
        let now = Moment { since_boot: 3 * HOUR, ..Moment::now() };
        let age = |since: i32| {
            let wall = now.wall + 100 * HOUR - HOUR * (100 + since) as u32;
            now.age_of(&Moment { wall, boot: 7, since_boot: 9 * HOUR })
        };
        assert_eq!(age(5), 5 * HOUR);
        assert_eq!(age(1), 3 * HOUR, "it was not since then");
        assert_eq!(age(-1), Duration::MAX, "from the future");
        assert!(!now.is_since(&Moment { boot: 7, ..now }));
        let nowhere = Moment { boot: 0, ..now };
        assert_eq!(nowhere.age_of(&Moment { wall: now.wall - HOUR, ..nowhere }), HOUR);
    }
}
