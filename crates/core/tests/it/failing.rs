//! Samples that cannot be read, as `on_error` says.

use std::path::Path;
use std::time::Duration;

use headwater::config::LoaderConfig;
use headwater::dataset::Dataset;
use headwater::engine::{Questions, uninterrupted};
use headwater::loader::Batch;
use headwater::metrics::Metric;
use headwater::order::{Order, Shuffled, substitute};
use headwater::{ErrorKind, Loader};

use crate::loader::{NO_CACHE, REMOTE, check, config, folder, indices, open, pass};

const SAMPLES: usize = 30;
const BAD: [usize; 4] = [3, 4, 17, 29];

fn damage(folder: &Path, samples: impl IntoIterator<Item = usize>) {
    for sample in samples {
        std::fs::write(folder.join(format!("b/{sample:04}.pt")), b"no tensor at all").expect("written");
    }
}

fn with(folder: &Path, on_error: &str, more: &str) -> Dataset {
    open(folder, &format!(r#", "on_error": "{on_error}"{more}"#))
}

fn counted(dataset: &Dataset) -> [u64; 3] {
    let snapshot = dataset.snapshot();
    [Metric::SampleErrors, Metric::SamplesSkipped, Metric::SamplesSubstituted].map(|metric| snapshot.raw(metric))
}

#[test]
fn a_bad_sample_ends_the_pass_unless_something_else_is_asked_for() {
    let folder = folder(SAMPLES);
    damage(folder.path(), BAD);
    let loader = Loader::new(&open(folder.path(), ""), config(4)).expect("loader");
    let error = loader.batches(uninterrupted()).expect("begins").find_map(Result::err).expect("fails");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn skipped_samples_are_left_out_and_steps_stay_equal() {
    let folder = folder(SAMPLES);
    let whole = indices(&pass(&Loader::new(&open(folder.path(), ""), config(4)).expect("loader")));
    damage(folder.path(), BAD);
    for more in ["", NO_CACHE, REMOTE] {
        let dataset = with(folder.path(), "skip", more);
        let loader = Loader::new(&dataset, config(4)).expect("loader");
        let batches = pass(&loader);
        let good = |batch: &Vec<usize>| batch.iter().copied().filter(|index| !BAD.contains(index)).collect();
        assert_eq!(indices(&batches), whole.iter().map(good).collect::<Vec<Vec<usize>>>(), "{more}");
        assert_eq!(batches.iter().map(|batch| batch.pads.as_ref().map_or(0, Vec::len)).sum::<usize>(), SAMPLES - 4);
        batches.iter().for_each(|batch| check(&dataset, batch));
        assert_eq!(counted(&dataset), [4, 4, 0], "{more}");
        assert_eq!(loader.state().epoch, 1);
    }
}

/// What stands in at a position of the first epoch.
fn stand_in(position: usize) -> usize {
    let mut draws = (0..).map(|attempt| substitute(SAMPLES, 3, 0, position as u64, attempt));
    draws.find(|index| !BAD.contains(index)).expect("one is good")
}

#[test]
fn substitutes_are_the_same_in_every_run_and_steps_stay_full() {
    let folder = folder(SAMPLES);
    damage(folder.path(), BAD);
    let order = Shuffled::new(SAMPLES, 3, 0);
    let expected: Vec<usize> = (0..SAMPLES)
        .map(|position| {
            Some(order.index_at(position)).filter(|index| !BAD.contains(index)).unwrap_or_else(|| stand_in(position))
        })
        .collect();
    for more in ["", NO_CACHE, REMOTE] {
        for (batch_size, world_size) in [(5, 1), (5, 2)] {
            let ranks = (0..world_size).map(|rank| {
                let dataset = with(folder.path(), "substitute", more);
                let config = LoaderConfig { rank: Some(rank), world_size: Some(world_size), ..config(batch_size) };
                let batches = pass(&Loader::new(&dataset, config).expect("loader"));
                batches.iter().for_each(|batch| check(&dataset, batch));
                let [failed, skipped, substituted] = counted(&dataset);
                assert!(failed == substituted && skipped == 0);
                batches
            });
            let ranks: Vec<Vec<Batch>> = ranks.collect();
            let steps = ranks[0].len();
            let together = (0..steps).flat_map(|step| ranks.iter().flat_map(move |rank| rank[step].indices.clone()));
            assert_eq!(together.collect::<Vec<_>>(), expected, "{more} {world_size}");
        }
    }
}

#[test]
fn a_batch_of_bad_samples_alone_still_holds_one() {
    let folder = folder(SAMPLES);
    damage(folder.path(), 0..8);
    let dataset = with(folder.path(), "skip", "");
    let loader = Loader::new(&dataset, LoaderConfig { shuffle: false, ..config(4) }).expect("loader");
    let batches = pass(&loader);
    assert_eq!(batches.len(), 8);
    assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), [1, 1, 4, 4, 4, 4, 4, 2]);
    batches.iter().for_each(|batch| check(&dataset, batch));
}

#[test]
fn a_set_of_bad_samples_alone_is_an_error_and_no_endless_search() {
    let folder = folder(SAMPLES);
    damage(folder.path(), 0..SAMPLES);
    for (on_error, more) in [("skip", ""), ("substitute", ""), ("substitute", REMOTE)] {
        let dataset = with(folder.path(), on_error, more);
        let loader = Loader::new(&dataset, config(4)).expect("loader");
        let error = loader.batches(uninterrupted()).expect("begins").find_map(Result::err).expect("fails");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("100 samples in a row could not be read"), "{error}");
        let error = dataset.get_batch(&[0, 1], uninterrupted()).expect_err("fails");
        assert!(error.to_string().contains("100 samples in a row could not be read"), "{error}");
    }
}

#[test]
fn samples_read_on_request_are_spared_in_batches_alone() {
    let folder = folder(SAMPLES);
    damage(folder.path(), BAD);
    for more in ["", REMOTE] {
        let read = |on_error: &str, wanted: &[usize]| {
            let samples = with(folder.path(), on_error, more).get_batch(wanted, uninterrupted());
            samples.map(|samples| samples.iter().map(|sample| sample.index).collect::<Vec<_>>())
        };
        assert_eq!(read("skip", &[2, 3, 5]).expect("read"), [2, 5]);
        assert_eq!(read("skip", &[3, 4]).expect("read").len(), 1);
        let substituted = read("substitute", &[2, 3, 4]).expect("read");
        assert!(substituted[0] == 2 && !BAD.contains(&substituted[1]) && !BAD.contains(&substituted[2]));
        assert_eq!(read("substitute", &[2, 3, 4]).expect("read"), substituted);
        assert_eq!(read("raise", &[2, 3]).expect_err("raised").kind(), ErrorKind::Corrupt);
        let dataset = with(folder.path(), "skip", more);
        assert_eq!(dataset.get(3, uninterrupted()).expect_err("it is named").kind(), ErrorKind::Corrupt);
        dataset.get_many(&[2, 3], uninterrupted()).expect_err("both were asked for");
    }
}

#[test]
fn whoever_answers_questions_decides_about_each() {
    let folder = folder(SAMPLES);
    damage(folder.path(), BAD);
    let name = "decides-about-each";
    let questions = Questions::current().expect("questions");
    let answering = std::thread::spawn(move || {
        let mut about = Vec::new();
        while about.len() < BAD.len() {
            let Some((number, question)) = questions.next(Duration::from_secs(20)) else { break };
            let (asked, json) = question.split_once('\n').expect("two parts");
            assert_eq!(asked, name);
            let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
            assert_eq!(json["kind"], "Corrupt");
            let key = json["key"].as_str().expect("key").to_owned();
            let verdict = if key == "0017" { "\"substitute\"" } else { "\"skip\"" };
            questions.answer(number, Ok(verdict.to_owned()));
            about.push(key);
        }
        about.sort();
        about
    });
    let dataset = with(folder.path(), &format!("ask:{name}"), "");
    let batches = pass(&Loader::new(&dataset, config(5)).expect("loader"));
    assert_eq!(answering.join().expect("answered"), ["0003", "0004", "0017", "0029"]);
    assert_eq!(batches.iter().map(Batch::len).sum::<usize>(), SAMPLES - 3);
    assert_eq!(counted(&dataset), [4, 3, 1]);
}
