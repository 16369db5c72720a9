use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::config::Span;
use crate::engine::uninterrupted;
use crate::value::{DType, Dict, Tensor};

const PLAIN: PutOptions = PutOptions { compress: false, is_prefetched: false };
const PACKED: PutOptions = PutOptions { compress: true, is_prefetched: false };

fn cache(memory: u64) -> Keyed {
    cache_of(CacheConfig { policy: Policy::Lru, ..CacheConfig::default() }, memory, Clock::default())
}

fn cache_of(config: CacheConfig, memory: u64, clock: Clock) -> Keyed {
    Keyed::new(CacheConfig { memory: Some(ByteSize(memory)), ..config }, clock).expect("a cache")
}

/// A dict of one tensor of so many floats whose lower halves are zero, as bf16 kept in fp32 has them.
fn value(len: usize, seed: u32) -> Value {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let bytes: Vec<u8> = (0..len)
        .flat_map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (((state >> 25) << 16) | 0x3F80_0000).to_le_bytes()
        })
        .collect();
    let tensor = Tensor::from_bytes(DType::F32, &[len], bytes.into()).expect("a tensor");
    Value::Dict(Dict::from_iter([("x", tensor)]))
}

fn found(keyed: &Keyed, key: &str) -> Option<Value> {
    keyed.get(key, false).expect("asked").map(|lease| lease.to_own().expect("whole"))
}

fn stats(keyed: &Keyed) -> KeyedStats {
    keyed.settle(uninterrupted()).expect("packed");
    keyed.stats().expect("figures")
}

#[test]
fn what_is_put_in_is_found_at_once_and_is_the_callers_own() {
    let keyed = cache(64 << 20);
    for options in [PLAIN, PACKED] {
        let value = value(100_000, 7);
        assert!(keyed.put("k", &value, options, uninterrupted()).expect("put"));
        let (one, other) = (found(&keyed, "k").expect("there"), found(&keyed, "k").expect("there"));
        assert_eq!((&one, &other), (&value, &value));
        assert_eq!(stats(&keyed).entries, 1);
        assert_eq!(found(&keyed, "k"), Some(value), "packed by now");
    }
    assert_eq!(found(&keyed, "another"), None);
}

#[test]
fn packed_entries_are_what_is_held_and_counted_however_they_were_packed() {
    let value = value(250_000, 1);
    let plain = tier::plain_bytes(&value) as u64;
    // Behind, where there is room for that; at once, where there is not.
    for capacity in [256 << 20, 4 * plain] {
        let keyed = cache(capacity);
        for key in ["a", "b", "c"] {
            assert!(keyed.put(key, &value, PACKED, uninterrupted()).expect("put"));
        }
        let stats = stats(&keyed);
        assert_eq!(stats.entries, 3);
        assert!(stats.bytes < 3 * plain / 2, "{stats:?}");
        assert_eq!(stats.saved_bytes, 3 * plain - stats.bytes);
    }
}

#[test]
fn what_does_not_shrink_stays_as_it_is() {
    let noise: Vec<u8> = (0..400_000_u32).map(|at| xxh3_64(&at.to_le_bytes()) as u8).collect();
    let tensor = Tensor::from_bytes(DType::U8, &[noise.len()], noise.into()).expect("a tensor");
    let keyed = cache(64 << 20);
    assert!(keyed.put("k", &tensor.clone().into(), PACKED, uninterrupted()).expect("put"));
    assert_eq!((stats(&keyed).saved_bytes, found(&keyed, "k")), (0, Some(tensor.into())));
}

#[test]
fn a_value_lives_as_long_as_it_may_and_no_longer() {
    let (clock, ttl) = (Clock::manual(), Some(Span(Duration::from_mins(1))));
    let keyed = cache_of(CacheConfig { ttl, ..CacheConfig::default() }, 1 << 20, clock.clone());
    keyed.put("old", &value(10, 1), PACKED, uninterrupted()).expect("put");
    clock.advance(Duration::from_millis(59_999));
    keyed.put("new", &value(10, 2), PACKED, uninterrupted()).expect("put");
    assert!(found(&keyed, "old").is_some(), "being asked for does not renew it");
    clock.advance(Duration::from_millis(1));
    assert!(found(&keyed, "old").is_none() && found(&keyed, "new").is_some());
    clock.advance(Duration::from_mins(1));
    let stats = stats(&keyed);
    assert_eq!((stats.entries, stats.expired, stats.evictions), (0, 2, 0));
    keyed.put("old", &value(10, 3), PACKED, uninterrupted()).expect("put");
    assert_eq!(found(&keyed, "old"), Some(value(10, 3)));
}

#[test]
fn a_value_that_is_declined_leaves_no_older_one_behind() {
    let keyed = cache(200_000);
    assert!(keyed.put("k", &value(1_000, 1), PLAIN, uninterrupted()).expect("put"));
    assert!(!keyed.put("k", &value(100_000, 2), PLAIN, uninterrupted()).expect("declined"));
    assert_eq!((found(&keyed, "k"), stats(&keyed).declined), (None, 1));
}

#[test]
fn keeping_declines_newcomers_and_lru_gives_up_the_oldest() {
    let plain = tier::plain_bytes(&value(1_000, 1)) as u64;
    for (policy, there) in [(Policy::Lru, ["a", "c"]), (Policy::Keep, ["a", "b"])] {
        let config = CacheConfig { policy, compression: Compression::None, ..CacheConfig::default() };
        let keyed = cache_of(config, 2 * plain, Clock::default());
        keyed.put("a", &value(1_000, 1), PLAIN, uninterrupted()).expect("put");
        keyed.put("b", &value(1_000, 2), PLAIN, uninterrupted()).expect("put");
        assert!(found(&keyed, "a").is_some());
        keyed.put("c", &value(1_000, 3), PLAIN, uninterrupted()).expect("put");
        let left: Vec<_> = ["a", "b", "c"].into_iter().filter(|key| keyed.contains(key).expect("asked")).collect();
        assert_eq!(left, there, "{policy:?}");
    }
}

#[test]
fn the_first_use_of_what_was_fetched_ahead_counts_as_a_prefetch_hit_also_once_it_is_packed() {
    let keyed = cache(64 << 20);
    let ahead = PutOptions { compress: true, is_prefetched: true };
    keyed.put("k", &value(100_000, 1), ahead, uninterrupted()).expect("put");
    assert_eq!(stats(&keyed).prefetch_hits, 0);
    found(&keyed, "k");
    found(&keyed, "k");
    let seen = stats(&keyed);
    assert_eq!((seen.hits, seen.prefetch_hits), (2, 1));
    keyed.get("k", true).expect("asked");
    assert_eq!(stats(&keyed).prefetch_hits, 2, "who asks knows better");
    keyed.reset_counters().expect("reset");
    let seen = stats(&keyed);
    assert_eq!((seen.hits, seen.prefetch_hits, seen.saved_bytes, seen.entries), (0, 0, 0, 1));
}

#[test]
fn what_somebody_waited_for_was_not_there_ahead_of_its_use() {
    let keyed = cache(64 << 20);
    assert!(keyed.get("k", false).expect("asked").is_none() && keyed.get_awaited("k").expect("asked").is_none());
    keyed.put("k", &value(10, 1), PutOptions { compress: true, is_prefetched: true }, uninterrupted()).expect("put");
    assert!(keyed.get_awaited("k").expect("asked").is_some());
    found(&keyed, "k");
    let seen = stats(&keyed);
    assert_eq!((seen.hits, seen.misses, seen.prefetch_hits), (1, 1, 0));
}

#[test]
fn what_is_replaced_removed_or_cleared_while_it_waits_to_be_packed_does_not_come_back() {
    let keyed = cache(256 << 20);
    for round in 0..50 {
        for key in 0..4 {
            keyed.put(&key.to_string(), &value(50_000, round), PACKED, uninterrupted()).expect("put");
        }
        keyed.put("0", &value(50_000, round + 1_000), PACKED, uninterrupted()).expect("put");
        assert!(keyed.remove("1").expect("removed"));
        if round % 2 == 0 {
            keyed.clear().expect("cleared");
        }
        stats(&keyed);
        assert_eq!(found(&keyed, "1"), None);
        let expected = (round % 2 == 1).then(|| value(50_000, round + 1_000));
        assert_eq!(found(&keyed, "0"), expected);
    }
    keyed.clear().expect("cleared");
    assert_eq!(stats(&keyed).bytes, 0, "all that was charged is given back");
}

#[test]
fn memory_stays_within_the_capacity_while_many_threads_put_and_get() {
    let capacity = 12 << 20;
    let keyed = cache(capacity);
    let values: Vec<_> = (0..6).map(|seed| value(1_000 + 60_000 * seed as usize, seed)).collect();
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (keyed, values) = (&keyed, &values);
            scope.spawn(move || {
                for round in 0..60 {
                    let number = (round * 7 + thread) % values.len();
                    keyed.put(&number.to_string(), &values[number], PACKED, uninterrupted()).expect("put");
                    let asked = (round * 5 + thread) % values.len();
                    if let Some(value) = found(keyed, &asked.to_string()) {
                        assert_eq!(value, values[asked]);
                    }
                    let tier = keyed.tier().expect("a tier");
                    assert!(tier.bytes() <= capacity, "{} bytes", tier.bytes());
                }
            });
        }
    });
    keyed.clear().expect("cleared");
    assert_eq!(stats(&keyed).bytes, 0);
}

#[test]
fn a_disk_is_refused() {
    let config = CacheConfig { disk: Some("/tmp/x".into()), ..CacheConfig::default() };
    assert_eq!(Keyed::new(config, Clock::default()).expect_err("no disk").kind(), ErrorKind::Invalid);
}
