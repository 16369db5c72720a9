use std::sync::Arc;

use tokio::sync::oneshot::Receiver;

use crate::cache::{Flight, Flights, Leader, UnitId};

const UNIT: UnitId = UnitId { sample: 3, field: 0 };

fn follow(flights: &Arc<Flights<u32>>) -> Receiver<u32> {
    match flights.join(UNIT) {
        Flight::Follow(receiver) => receiver,
        Flight::Lead(_) => panic!("somebody leads already"),
    }
}

fn lead(flights: &Arc<Flights<u32>>) -> Leader<u32> {
    match flights.join(UNIT) {
        Flight::Lead(leader) => leader,
        Flight::Follow(_) => panic!("nobody leads"),
    }
}

#[test]
fn one_leads_and_all_get_the_result() {
    let flights = Arc::default();
    let leader = lead(&flights);
    let (first, second) = (follow(&flights), follow(&flights));
    drop(second);
    assert!(leader.land(&7));
    assert_eq!(first.blocking_recv(), Ok(7));
    assert!(flights.is_empty());
    assert!(!lead(&flights).land(&8), "nobody followed");
}

#[test]
fn followers_of_a_leader_that_left_are_told() {
    let flights = Arc::default();
    let leader = lead(&flights);
    let follower = follow(&flights);
    drop(leader);
    follower.blocking_recv().expect_err("no result");
    let next = lead(&flights);
    let follower = follow(&flights);
    next.land(&9);
    assert_eq!(follower.blocking_recv(), Ok(9));
}
