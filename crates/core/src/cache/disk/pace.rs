//! How long another one is waited for that fetches an object: a few times what it takes here.
//!
//! Nobody says how it gets on. Whoever is stopped, or slower than this process by far, is waited for that long once and then for less
//! and less, so that it costs a moment and not a moment per object. While most of what is fetched here takes no less, those that fetch
//! share a line, and each that gave up would take of what the others wait for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::flight::Owner;

/// Before anything was fetched here: what a slow source would take.
const UNKNOWN: Duration = Duration::from_secs(2);
const SLOW_BYTES_PER_SECOND: f64 = 20e6;
/// So many times what it takes here.
const TIMES: u32 = 4;
/// What a process may be kept from its work by others on a busy machine.
const SHORTEST: Duration = Duration::from_millis(500);
/// How much the latest one counts of what it usually takes.
const LATEST: f64 = 0.125;
/// Whoever was waited for in vain is waited for by so much less the next time, and after so many times in a row not at all
const LESS: u32 = 4;
const TRIES: u32 = 4;
/// until it is waited for as anybody is.
const FORGIVEN_AFTER: Duration = Duration::from_secs(30);

/// What fetching takes here, and whom it was of no use to wait for.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Since when, by their places.
    under_way: HashMap<u64, Instant>,
    usual: Option<Usual>,
    in_vain: HashMap<Owner, InVain>,
}

/// From having its turn to having a record on disk.
#[derive(Debug, Clone, Copy)]
struct Usual {
    seconds: f64,
    bytes: f64,
}

#[derive(Debug, Clone, Copy)]
struct InVain {
    times: u32,
    last: Instant,
}

impl Pace {
    pub(super) fn began(&mut self, at: u64, now: Instant) {
        self.under_way.insert(at, now);
    }

    /// One has ended; how many bytes it brought, if it did.
    pub(super) fn ended(&mut self, at: u64, brought: Option<u64>, now: Instant) {
        let Some((since, bytes)) = self.under_way.remove(&at).zip(brought) else { return };
        let latest = Usual { seconds: (now - since).as_secs_f64(), bytes: bytes as f64 };
        let mixed = |usual: f64, latest: f64| usual + (latest - usual) * LATEST;
        self.usual = Some(self.usual.map_or(latest, |usual| Usual {
            seconds: mixed(usual.seconds, latest.seconds),
            bytes: mixed(usual.bytes, latest.bytes),
        }));
    }

    /// Whether an object of so many bytes should be here by now.
    pub(super) fn is_in_vain(&self, owner: Option<Owner>, bytes: u64, waited: Duration, now: Instant) -> bool {
        match self.failed(owner, now) {
            Some(failed) if failed.times >= TRIES => true,
            Some(failed) => waited >= self.patience(bytes) / LESS.pow(failed.times),
            None if waited < self.patience(bytes) => false,
            None => {
                let slower = self.under_way.values().filter(|&&since| now - since >= waited / TIMES).count();
                2 * slower <= self.under_way.len()
            }
        }
    }

    /// Notes how a wait ended. Those that were under way together are one.
    pub(super) fn waited(&mut self, owner: Option<Owner>, waited: Duration, is_there: bool, now: Instant) {
        let Some(owner) = owner else { return };
        if is_there {
            self.in_vain.remove(&owner);
            return;
        }
        let times = match self.failed(Some(owner), now) {
            Some(failed) if now - failed.last < waited => return,
            failed => failed.map_or(1, |failed| failed.times + 1),
        };
        self.in_vain.insert(owner, InVain { times, last: now });
    }

    fn failed(&self, owner: Option<Owner>, now: Instant) -> Option<InVain> {
        self.in_vain.get(&owner?).copied().filter(|failed| now - failed.last < FORGIVEN_AFTER)
    }

    fn patience(&self, bytes: u64) -> Duration {
        let bytes = bytes as f64;
        match self.usual {
            None => UNKNOWN + Duration::from_secs_f64(bytes / SLOW_BYTES_PER_SECOND),
            Some(usual) => {
                let larger = (bytes / usual.bytes.max(1.0)).max(1.0);
                SHORTEST.max(Duration::from_secs_f64(usual.seconds * larger) * TIMES)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;
    const OTHER: Option<Owner> = Some(Owner(7));

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// One for whom fetching a megabyte takes so long.
    fn usually(each: Duration, now: Instant) -> Pace {
        let mut pace = Pace::default();
        for at in 0..50 {
            pace.began(at, now);
            pace.ended(at, Some(MB), now + each);
        }
        pace
    }

    /// For how long it waits.
    fn patience(pace: &Pace, bytes: u64, now: Instant) -> Duration {
        let over = (0..100_000).map(|tens| ms(tens * 10));
        over.into_iter().find(|&waited| pace.is_in_vain(OTHER, bytes, waited, now)).expect("not for ever")
    }

    #[test]
    fn another_one_is_waited_for_a_few_times_as_long_as_it_takes_here() {
        let now = Instant::now();
        assert_eq!(patience(&Pace::default(), 20 * MB, now), ms(3_000), "nothing is known yet");
        assert_eq!(patience(&usually(ms(5), now), MB, now), SHORTEST);
        let pace = usually(ms(300), now);
        assert_eq!(patience(&pace, MB, now), ms(1_200));
        assert_eq!((patience(&pace, 1_000, now), patience(&pace, 4 * MB, now)), (ms(1_200), ms(4_800)));
    }

    #[test]
    fn what_was_given_up_and_objects_of_no_size_say_nothing_of_what_it_takes() {
        let now = Instant::now();
        let mut pace = usually(ms(300), now);
        pace.began(1, now);
        pace.ended(1, None, now + ms(60_000));
        assert_eq!(patience(&pace, MB, now), ms(1_200));
        let mut pace = Pace::default();
        pace.began(1, now);
        pace.ended(1, Some(0), now);
        assert!(pace.is_in_vain(OTHER, 1 << 46, Duration::MAX, now));
    }

    #[test]
    fn all_that_is_lost_by_one_who_never_brings_anything_is_little_more_than_one_wait() {
        let mut now = Instant::now();
        let (mut pace, mut lost) = (usually(ms(300), now), Duration::ZERO);
        for _ in 0..256 {
            let waited = patience(&pace, MB, now);
            (lost, now) = (lost + waited, now + waited);
            pace.waited(OTHER, waited, false, now);
        }
        assert!((ms(1_200)..ms(2_000)).contains(&lost), "{lost:?}");
        assert_eq!(patience(&pace, MB, now + FORGIVEN_AFTER), ms(1_200), "it may be faster by now");
        pace.waited(OTHER, ms(1), true, now);
        assert_eq!(patience(&pace, MB, now), ms(1_200), "it is");
    }

    #[test]
    fn waits_that_end_together_count_as_one() {
        let now = Instant::now();
        let mut pace = usually(ms(300), now);
        for late in 0..32 {
            pace.waited(OTHER, ms(1_200), false, now + ms(late));
        }
        assert_eq!(patience(&pace, MB, now + ms(32)), ms(300));
    }

    #[test]
    fn while_all_that_is_fetched_here_takes_as_long_nobody_gives_up() {
        let now = Instant::now();
        let mut pace = usually(ms(300), now);
        (0..10).for_each(|at| pace.began(at, now));
        assert!(!pace.is_in_vain(OTHER, MB, ms(20_000), now + ms(20_000)));
        // A single one that hangs is no slow line.
        (1..10).for_each(|at| pace.ended(at, Some(MB), now + ms(300)));
        (1..10).for_each(|at| pace.began(at, now + ms(19_900)));
        assert!(pace.is_in_vain(OTHER, MB, ms(20_000), now + ms(20_000)));
    }
}
