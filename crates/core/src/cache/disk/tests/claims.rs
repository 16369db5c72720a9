//! Claims of one process. Those of several: `tests/it/sharing.rs`.

use super::*;

/// A set of the folder, as each dataset has one of its own.
fn set(root: &Path) -> Set {
    disk(root, 1 << 20).set("s3://bucket/run", None, false)
}

fn owner(claim: &Claim) -> Option<Owner> {
    let Claim::Theirs(owner) = claim else { panic!("it is claimed: {claim:?}") };
    *owner
}

fn flight(claim: Claim) -> Flight {
    let Claim::Ours(flight) = claim else { panic!("it is free: {claim:?}") };
    flight
}

#[test]
fn of_two_datasets_of_a_process_one_has_a_claim_until_it_lets_go() {
    let dir = folder();
    let (one, other) = (set(dir.path()), set(dir.path()));
    let held = flight(one.claim("a.pt"));
    let who = owner(&other.claim("a.pt"));
    assert!(who.is_some() && other.is_still_claimed("a.pt", who) && one.is_still_claimed("a.pt", None));
    assert!(!one.is_still_claimed("a.pt", Some(Owner(400))), "somebody else has it now");
    drop(flight(other.claim("b.pt")));
    assert!(other.is_still_claimed("a.pt", who), "only that one ended");
    drop(held);
    assert!(!other.is_still_claimed("a.pt", who) && !one.is_still_claimed("a.pt", None));
    let held = flight(other.claim("a.pt"));
    owner(&one.claim("a.pt"));
    drop(held);
    let elsewhere = disk(dir.path(), 1 << 20).set("s3://bucket/other", None, false);
    let _both = (flight(one.claim("a.pt")), flight(elsewhere.claim("a.pt")));
}

#[test]
fn threads_that_claim_at_once_never_hold_one_object_together() {
    let dir = folder();
    let (held, claimed) = (AtomicU64::new(0), AtomicU64::new(0));
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let set = set(dir.path());
                barrier.wait();
                for _ in 0..2_000 {
                    if let Claim::Ours(flight) = set.claim("a.pt") {
                        assert_eq!(held.fetch_add(1, Ordering::SeqCst), 0);
                        assert!(set.is_still_claimed("a.pt", None));
                        claimed.fetch_add(1, Ordering::SeqCst);
                        held.fetch_sub(1, Ordering::SeqCst);
                        drop(flight);
                    }
                }
            });
        }
    });
    assert!(claimed.into_inner() > 8);
    assert!(!set(dir.path()).is_still_claimed("a.pt", None), "nothing is left");
}
