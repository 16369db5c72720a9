use proptest::prelude::*;

use super::*;

const BYTES: u64 = 1000;
const SAMPLES: u64 = 20_000;

/// Hit ratios of a cache for a share of the data, each sample once per epoch in a new random order.
const SHARES: [f64; 5] = [0.1, 0.25, 0.5, 0.75, 0.9];

fn data() -> Sizes {
    Sizes::equal(SAMPLES, BYTES, 1).expect("sizes")
}

fn bytes(share: f64) -> u64 {
    (share * (SAMPLES * BYTES) as f64) as u64
}

fn run(plan: &Plan) -> Outcome {
    plan.run(&data()).expect("outcome")
}

fn assert_near(found: f64, expected: f64, what: &dyn std::fmt::Debug) {
    assert!((found - expected).abs() < 0.01, "{found} instead of {expected}: {what:?}");
}

#[test]
fn keeping_reuses_capacity_to_dataset() {
    for share in SHARES {
        for policy in [Policy::Keep, Policy::Auto] {
            let plan = Plan { memory_bytes: bytes(share), policy, ..Plan::default() };
            assert_near(run(&plan).usual.memory_reuse, share, &plan);
            let plan = Plan { disk_bytes: bytes(share), policy, ..Plan::default() };
            assert_near(run(&plan).usual.disk_reuse, share, &plan);
        }
    }
}

#[test]
fn least_recently_used_reuses_what_theory_says() {
    for share in SHARES {
        let plan = Plan { memory_bytes: bytes(share), policy: Policy::Lru, ..Plan::default() };
        assert_near(run(&plan).usual.reuse(), share + (1.0 - share) * (1.0 - share).ln(), &plan);
    }
}

#[test]
fn private_memories_do_not_add_up_and_a_shared_disk_does() {
    for share in SHARES {
        let two = Plan { ranks_per_node: 2, epochs: 16, ..Plan::default() };
        let memory = Plan { memory_bytes: bytes(share), ..two.clone() };
        assert_near(run(&memory).usual.reuse(), share, &memory);
        let disk = Plan { disk_bytes: bytes(share), ..two };
        assert_near(run(&disk).usual.reuse(), share, &disk);
        assert!(run(&disk).disk_kept_bytes <= disk.disk_bytes);
    }
    // Disks of two nodes are as private as memories of two ranks.
    let nodes = Plan { nodes: 2, ranks_per_node: 4, disk_bytes: bytes(0.5), batch_size: 8, ..Plan::default() };
    assert_near(run(&nodes).usual.reuse(), 0.5, &nodes);
}

#[test]
fn in_the_order_of_keys_private_memories_add_up() {
    let two = Plan { ranks_per_node: 2, memory_bytes: bytes(0.25), shuffle: false, ..Plan::default() };
    assert_near(run(&two).usual.reuse(), 0.5, &two);
    let lru = Plan { policy: Policy::Lru, ..two };
    assert_near(run(&lru).usual.reuse(), 0.0, &lru);
}

#[test]
fn memory_and_disk_of_one_rank_hold_the_same_and_those_of_many_do_not() {
    let one = Plan { memory_bytes: bytes(0.2), disk_bytes: bytes(0.5), ..Plan::default() };
    let outcome = run(&one);
    assert_near(outcome.usual.memory_reuse, 0.2, &one);
    assert_near(outcome.usual.reuse(), 0.5, &one);
    assert_eq!((outcome.memory_kept_bytes, outcome.disk_kept_bytes), (bytes(0.2), bytes(0.5)));
    let eight = Plan { ranks_per_node: 8, epochs: 20, ..one };
    let reuse = run(&eight).usual.reuse();
    assert!(reuse > 0.52 && reuse < 0.6 + 0.01, "{reuse}");
}

#[test]
fn the_first_epoch_reads_everything_and_a_cache_that_holds_everything_reads_no_more() {
    let everything = Plan { disk_bytes: Plan::default().packed_bytes(&data()), ranks_per_node: 3, ..Plan::default() };
    let outcome = run(&everything);
    assert_eq!(outcome.epochs[0], Epoch { requests: SAMPLES, bytes: SAMPLES * BYTES, ..Epoch::default() });
    assert_eq!(outcome.epochs[1..], vec![Epoch { disk_reuse: 1.0, ..Epoch::default() }; 9]);
    assert!(!outcome.is_filling);
    let nothing = run(&Plan::default());
    assert_eq!(nothing.usual, nothing.epochs[0]);
    assert_eq!((nothing.memory_kept_bytes, nothing.disk_kept_bytes), (0, 0));
}

#[test]
fn packing_makes_the_dataset_smaller_and_not_what_is_read() {
    let plan = Plan { disk_bytes: bytes(0.2), ratio: 2.5, ..Plan::default() };
    assert_eq!(plan.packed_bytes(&data()), bytes(0.4));
    let usual = run(&plan).usual;
    assert_near(usual.reuse(), 0.5, &plan);
    assert_near(usual.bytes as f64 / bytes(1.0) as f64, 0.5, &plan);
}

#[test]
fn memories_of_many_ranks_that_are_still_filling_say_so() {
    let plan = Plan { nodes: 8, ranks_per_node: 8, memory_bytes: bytes(0.5), epochs: 5, ..Plan::default() };
    let outcome = run(&plan);
    // In an epoch a rank meets one in 64 samples.
    assert!(outcome.is_filling);
    assert_near(outcome.usual.reuse(), 4.0 / 64.0, &plan);
    assert_eq!(outcome.usual, outcome.epochs[4]);
}

#[test]
fn more_ranks_than_samples_use_each_sample_once() {
    let sizes = Sizes::equal(10, BYTES, 3).expect("sizes");
    let plan = Plan { nodes: 4, ranks_per_node: 8, batch_size: 16, ..Plan::default() };
    assert_eq!(plan.run(&sizes).expect("outcome").usual.requests, 30);
}

#[test]
fn a_few_samples_stand_for_many() {
    let many = Sizes::equal(100_000_000, 6_800_000, 2).expect("sizes");
    for share in SHARES {
        let disk_bytes = (share * many.stored_bytes() as f64 / 2.9) as u64;
        let plan = Plan { disk_bytes, ratio: 2.9, ranks_per_node: 8, epochs: 3, ..Plan::default() };
        let outcome = plan.run(&many).expect("outcome");
        assert_eq!(outcome.walked_samples, 25_000);
        assert_near(outcome.usual.reuse(), share, &plan);
        assert_near(outcome.usual.bytes as f64 / many.stored_bytes() as f64, 1.0 - share, &plan);
        assert_near(outcome.usual.requests as f64 / 200e6, 1.0 - share, &plan);
        assert_near(outcome.disk_kept_bytes as f64 / disk_bytes as f64, 1.0, &plan);
        assert_eq!(outcome.epochs[0].requests, 200_000_000);
    }
    let everything = Plan { ratio: 2.9, ..Plan::default() };
    let everything = Plan { disk_bytes: everything.packed_bytes(&many), ..everything };
    assert_eq!(everything.run(&many).expect("outcome").usual.requests, 0);
    // A memory that is small beside the dataset is as full as it is.
    let small = Plan { memory_bytes: 8_000_000_000, nodes: 2, ranks_per_node: 4, ..Plan::default() };
    assert_near(small.run(&many).expect("outcome").memory_kept_bytes as f64 / 32e9, 1.0, &small);
}

#[test]
fn many_epochs_are_walked_over_fewer_samples() {
    let sizes = Sizes::equal(30_000, BYTES, 2).expect("sizes");
    let disk_bytes = sizes.stored_bytes() / 2;
    for (epochs, walked) in [(10, 25_000), (100, 2500), (1000, 500)] {
        let plan = Plan { disk_bytes, epochs, ..Plan::default() };
        let outcome = plan.run(&sizes).expect("outcome");
        assert_eq!((outcome.walked_samples, outcome.epochs.len()), (walked, epochs));
        assert_near(outcome.usual.reuse(), 0.5, &plan);
        let everything = Plan { disk_bytes: plan.packed_bytes(&sizes), ..plan };
        assert_eq!(everything.run(&sizes).expect("outcome").usual.requests, 0);
    }
}

#[test]
fn samples_of_all_sizes_are_drawn_evenly() {
    // One in a hundred is a hundred times as large, and object 1 is always small.
    let size = |sample: u64, object| if object == 0 && sample.is_multiple_of(100) { 100_000 } else { 1000_u64 };
    let samples = 400_000;
    let stored = (0..samples).map(|sample| size(sample, 0) + size(sample, 1)).sum();
    let sizes = Sizes::new(samples, 2, stored, |sample, object| Ok(size(sample, object))).expect("sizes");
    let plan = Plan { disk_bytes: stored / 2, epochs: 3, ..Plan::default() };
    let outcome = plan.run(&sizes).expect("outcome");
    assert_near(outcome.epochs[0].bytes as f64 / stored as f64, 1.0, &plan);
    assert_near(outcome.usual.bytes as f64 / stored as f64, 0.5, &plan);
    assert_eq!(sizes, Sizes::new(samples, 2, stored, |sample, object| Ok(size(sample, object))).expect("sizes"));
}

#[test]
fn disks_to_compare_end_with_the_one_that_holds_everything() {
    let (data, everything) = (data(), bytes(1.0));
    let disks = |disk_bytes| Plan { disk_bytes, ..Plan::default() }.disks_to_compare(&data);
    assert_eq!(disks(bytes(0.1)), [bytes(0.05), bytes(0.1), bytes(0.2), bytes(0.4), everything]);
    assert_eq!(disks(bytes(0.5)), [bytes(0.25), bytes(0.5), everything]);
    assert_eq!(disks(3 * everything), [everything]);
    assert_eq!(disks(0), [0, everything / 4, everything / 2, everything]);
}

#[test]
fn numbers_that_cannot_be_meant_are_refused() {
    let refused = |plan: Plan| plan.run(&data()).expect_err("refused").to_string();
    assert_eq!(refused(Plan { nodes: 0, ..Plan::default() }), "cannot use `nodes = 0`: it must be at least 1");
    assert!(
        refused(Plan { nodes: usize::MAX, ranks_per_node: 8, ..Plan::default() }).contains("more than 100000 ranks")
    );
    assert!(refused(Plan { ratio: 0.0, ..Plan::default() }).contains("such as 2.9"));
    assert!(refused(Plan { ratio: 1e-15, ..Plan::default() }).contains("an exabyte"));
    assert!(refused(Plan { epochs: 1, ..Plan::default() }).contains("walk 2 at least, and 1000 at most"));
    let refused = |samples, bytes, objects| Sizes::equal(samples, bytes, objects).expect_err("refused").to_string();
    assert_eq!(refused(0, 5, 1), "cannot simulate `0 samples of 0 bytes in all`: both numbers have to be above 0");
    assert!(refused(5, 0, 1).contains("5 samples of 0 bytes in all"));
    assert!(refused(5, 5, 0).contains("0 objects per sample"));
    assert!(refused(u64::MAX, 2, 1).contains("18 exabytes"));
}

fn plans() -> impl Strategy<Value = (Plan, Sizes)> {
    let policy = prop::sample::select(vec![Policy::Auto, Policy::Keep, Policy::Lru]);
    let cluster = (1..4_usize, 1..5_usize, 1..9_usize, policy, any::<bool>(), any::<u64>());
    let data = (500..3000_u64, 1..4_usize, 0.0..1.2, 0.0..1.2, 0.7..4.0);
    (cluster, data).prop_map(|((nodes, ranks_per_node, batch_size, policy, shuffle, seed), data)| {
        let (samples, objects, memory, disk, ratio) = data;
        let sizes = Sizes::equal(samples, BYTES, objects).expect("sizes");
        let part = |share: f64| (share * (samples * BYTES) as f64 / ratio) as u64;
        let (memory_bytes, disk_bytes) = (part(memory), part(disk));
        let plan = Plan {
            nodes,
            ranks_per_node,
            memory_bytes,
            disk_bytes,
            ratio,
            policy,
            batch_size,
            shuffle,
            seed,
            epochs: 4,
        };
        (plan, sizes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_larger_disk_never_reuses_less((plan, sizes) in plans()) {
        let reuse = |disk_bytes| Plan { disk_bytes, ..plan.clone() }.run(&sizes).expect("outcome").epochs[3].reuse();
        let disks = [0, plan.disk_bytes / 2, plan.disk_bytes, plan.packed_bytes(&sizes)];
        let reuse: Vec<_> = disks.into_iter().map(reuse).collect();
        prop_assert!(reuse[..3].windows(2).all(|pair| pair[0] <= pair[1] + 0.01), "{:?}", reuse);
        prop_assert!(plan.nodes > 1 || (reuse[3] - 1.0).abs() < 1e-9, "one node that holds everything: {:?}", reuse);
    }

    #[test]
    fn what_is_not_reused_is_read_and_nothing_exceeds_its_capacity((plan, sizes) in plans()) {
        let outcome = plan.run(&sizes).expect("outcome");
        let uses = (sizes.samples() * sizes.objects_per_sample() as u64) as f64;
        for epoch in &outcome.epochs {
            prop_assert!((epoch.requests as f64 - (1.0 - epoch.reuse()) * uses).abs() < 1.0, "{:?}", epoch);
            prop_assert!(epoch.reuse() <= 1.0 + 1e-9 && epoch.bytes <= sizes.stored_bytes());
        }
        prop_assert!(outcome.memory_kept_bytes <= plan.ranks_per_node as u64 * plan.memory_bytes);
        prop_assert!(outcome.disk_kept_bytes <= plan.disk_bytes);
        prop_assert_eq!(outcome, plan.run(&sizes).expect("the same again"));
    }
}
