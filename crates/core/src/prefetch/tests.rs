use std::sync::atomic::AtomicUsize;

use super::*;
use crate::engine::{Engine, uninterrupted};

/// Steps are numbers, prepared on the workers in any order; some fail, some never finish.
struct Numbers {
    workers: Workers,
    begun: AtomicUsize,
    most_ahead: AtomicUsize,
    handed: AtomicUsize,
}

const FAILS: usize = 13;
const HANGS: usize = 99;

impl Numbers {
    fn new() -> Arc<Self> {
        let workers = Engine::current().expect("engine").workers().expect("threads").clone();
        let zero = || AtomicUsize::new(0);
        Arc::new(Self { workers, begun: zero(), most_ahead: zero(), handed: zero() })
    }
}

impl Preparation for Numbers {
    type Step = usize;
    type Batch = usize;

    fn samples_of(&self, _: &usize) -> usize {
        1
    }

    fn bytes_of(&self, step: &usize) -> usize {
        *step
    }

    fn begin(self: Arc<Self>, step: usize, ticket: Ticket<Self>) {
        let begun = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_ahead.fetch_max(begun - self.handed.load(Ordering::SeqCst), Ordering::SeqCst);
        let workers = self.workers.clone();
        workers.spawn(move || match step {
            FAILS => ticket.complete(Err(Error::new(ErrorKind::Corrupt, "read", "13"))),
            HANGS => std::mem::forget(ticket),
            14 => drop(ticket),
            _ => ticket.complete(Ok(step * 10)),
        });
    }

    fn describe(&self) -> String {
        "waiting for a number".into()
    }
}

fn start(
    numbers: &Arc<Numbers>,
    steps: impl Iterator<Item = usize> + Send + 'static,
    samples: usize,
) -> Prefetcher<Numbers> {
    let limits = WindowLimits { step_samples: 1, samples: Some(samples), first_samples: 0, bytes: 1 << 30 };
    Prefetcher::new(numbers.clone(), steps, limits, numbers.workers.clone())
}

fn until(milliseconds: u64) -> Patience {
    Patience { deadline: Some(Duration::from_millis(milliseconds)), warn_after: None }
}

#[test]
fn hands_over_in_order_and_never_more_ahead_than_the_window() {
    let numbers = Numbers::new();
    let prefetcher = start(&numbers, (0..2000).map(|n| n % 10), 7);
    for n in 0..2000 {
        let handed =
            prefetcher.next(Patience::default(), uninterrupted()).expect("waits").expect("one more").expect("prepared");
        assert_eq!(handed.batch, n % 10 * 10);
        numbers.handed.fetch_add(1, Ordering::SeqCst);
    }
    let ended = || prefetcher.next(Patience::default(), uninterrupted()).expect("waits").is_none();
    assert!(ended());
    assert!(ended(), "and stays at its end");
    // One more than the window: a step is begun as soon as one is handed over, before this test counts it.
    assert!(numbers.most_ahead.load(Ordering::SeqCst) <= 8, "{:?}", numbers.most_ahead);
}

#[test]
fn a_failed_step_fails_alone_and_one_that_was_left_is_an_error_too() {
    let numbers = Numbers::new();
    let prefetcher = start(&numbers, 12..16, 2);
    let outcomes: Vec<_> =
        std::iter::from_fn(|| prefetcher.next(Patience::default(), uninterrupted()).expect("waits")).collect();
    let kinds: Vec<_> =
        outcomes.iter().map(|outcome| outcome.as_ref().map(|handed| handed.batch).map_err(Error::kind)).collect();
    assert_eq!(kinds, [Ok(120), Err(ErrorKind::Corrupt), Err(ErrorKind::Internal), Ok(150)]);
}

#[test]
fn a_wait_ends_at_its_deadline_and_when_interrupted_and_says_for_what() {
    let numbers = Numbers::new();
    let prefetcher = start(&numbers, std::iter::once(HANGS), 2);
    let error = prefetcher.next(until(1), uninterrupted()).expect_err("too late");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().ends_with("its deadline; waiting for a number"), "{error}");
    let stop = || Err(Error::new(ErrorKind::Interrupted, "wait", "a test"));
    let error = prefetcher.next(Patience::default(), &stop).expect_err("interrupted");
    assert_eq!(error.kind(), ErrorKind::Interrupted);
}

#[test]
fn leaving_cancels_what_is_under_way() {
    struct Cancellable(AtomicUsize);
    impl Preparation for Cancellable {
        type Step = usize;
        type Batch = ();
        fn samples_of(&self, _: &usize) -> usize {
            1
        }
        fn bytes_of(&self, _: &usize) -> usize {
            1
        }
        fn begin(self: Arc<Self>, _: usize, ticket: Ticket<Self>) {
            let this = self.clone();
            ticket.progress().on_cancel(move || {
                this.0.fetch_add(1, Ordering::SeqCst);
            });
            std::mem::forget(ticket);
        }
        fn describe(&self) -> String {
            String::new()
        }
    }
    let workers = Engine::current().expect("engine").workers().expect("threads").clone();
    let preparation = Arc::new(Cancellable(AtomicUsize::new(0)));
    let limits = WindowLimits { step_samples: 1, samples: Some(5), first_samples: 0, bytes: 100 };
    let prefetcher = Prefetcher::new(preparation.clone(), 0..100, limits, workers);
    let deadline = Instant::now() + Duration::from_secs(20);
    while prefetcher.window().1 < 5 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    // The last of the five may be in `begin` still.
    drop(prefetcher.next(until(60), uninterrupted()));
    drop(prefetcher);
    assert_eq!(preparation.0.load(Ordering::SeqCst), 5);
}

#[test]
fn a_wait_is_split_by_the_stages_it_was_in() {
    let progress = Progress::new();
    progress.begin(4, 1, 2);
    assert_eq!(progress.ready_units(), 2);
    let asked = Instant::now();
    std::thread::sleep(Duration::from_millis(4));
    progress.mark_fetched(true);
    std::thread::sleep(Duration::from_millis(2));
    progress.mark_fetched(true);
    progress.mark_decoded();
    std::thread::sleep(Duration::from_millis(3));
    progress.mark_done();
    let stall = progress.stall_since(asked);
    assert!(stall.source >= Duration::from_millis(6) && stall.collate >= Duration::from_millis(3), "{stall:?}");
    assert!(stall.decode < stall.source, "{stall:?}");
    assert_eq!(progress.stall_since(Instant::now()), Stall::default(), "who asks late waits for nothing");
    assert_eq!(progress.ready_units(), 4);
}

#[test]
fn what_begins_while_it_is_cancelled_is_cancelled_too() {
    let progress = Progress::new();
    let cancelled = Arc::new(AtomicUsize::new(0));
    let count = || {
        let cancelled = cancelled.clone();
        move || {
            cancelled.fetch_add(1, Ordering::Relaxed);
        }
    };
    progress.on_cancel(count());
    progress.cancel();
    assert_eq!(cancelled.load(Ordering::Relaxed), 1);
    progress.on_cancel(count());
    assert_eq!(cancelled.load(Ordering::Relaxed), 2);
    progress.cancel();
    assert_eq!(cancelled.load(Ordering::Relaxed), 2);
}
