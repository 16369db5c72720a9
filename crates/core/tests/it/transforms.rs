//! Functions of the host's in a loader's pass: what they are asked for, in which order, how far ahead, and what becomes of failures.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use headwater::Loader;
use headwater::collate::Collation;
use headwater::config::{DatasetConfig, LoaderConfig};
use headwater::dataset::Dataset;
use headwater::engine::uninterrupted;
use headwater::loader::{Batches, Content, Given, HostValue, Task, Tasks};
use headwater::value::{DType, Tensor, Value};
use tempfile::TempDir;

const SAMPLES: usize = 10;

fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("folder");
    for sample in 0..SAMPLES {
        let tensor = Tensor::from_bytes(DType::U8, &[1], vec![sample as u8].into()).expect("tensor");
        let path = folder.path().join(format!("{sample:03}.pt"));
        headwater::object::save(&path, &Value::Tensor(tensor)).expect("saved");
    }
    folder
}

fn loader(folder: &TempDir, config: LoaderConfig) -> Loader {
    let json = format!(r#"{{"source": "{}"}}"#, folder.path().display());
    let dataset = DatasetConfig::from_json(&json).and_then(|config| Dataset::open(&config, uninterrupted()));
    Loader::new(&dataset.expect("opens"), config).expect("loader")
}

fn config(batch_size: usize, threads: usize) -> LoaderConfig {
    LoaderConfig {
        batch_size,
        collate: Collation::Samples,
        transform_threads: Some(threads),
        rank: Some(0),
        world_size: Some(1),
        ..LoaderConfig::default()
    }
}

/// What a task is given, in short: a sample's index, or the values of a batch.
fn given(task: &mut Task) -> (Option<usize>, Vec<usize>) {
    match task.take().expect("once") {
        Given::Sample(sample, _) => (Some(sample.index), Vec::new()),
        Given::Samples(samples, _) => (None, samples.iter().map(|sample| sample.index).collect()),
        Given::Values(values) => (None, values.iter().map(|value| *value.get::<usize>().expect("a number")).collect()),
    }
}

/// Does what it is asked for: ten times a sample's index, and of a batch the list of those.
fn work(tasks: &Tasks) {
    while let Some(mut task) = tasks.next() {
        let (sample, values) = given(&mut task);
        let made = sample.map_or_else(|| HostValue::new(values), |index| HostValue::new(10 * index));
        task.complete(made);
    }
}

fn made(batches: &mut Batches) -> Option<Vec<usize>> {
    let batch = batches.next_batch(uninterrupted())?.expect("batch");
    let Content::Host(value) = batch.content else { panic!("made by functions") };
    Some(value.get::<Vec<usize>>().expect("a list").clone())
}

/// The next task within a generous time, if one comes; and without one, after a short while.
fn within(tasks: &Receiver<Task>, patience: Duration) -> Option<Task> {
    tasks.recv_timeout(patience).ok()
}

#[test]
fn batches_are_made_of_what_was_made_of_each_sample_in_order_on_any_number_of_threads() {
    let folder = folder();
    for (threads, batch_size) in [(1, 3), (2, 3), (8, 3), (4, 1), (4, 20)] {
        let loader = loader(&folder, config(batch_size, threads));
        let (mut batches, tasks) = loader.transformed(true, uninterrupted()).expect("begins");
        let workers: Vec<_> =
            (0..threads).map(|_| tasks.clone()).map(|tasks| thread::spawn(move || work(&tasks))).collect();
        let all: Vec<_> = std::iter::from_fn(|| made(&mut batches)).collect();
        let numbers: Vec<usize> = (0..SAMPLES).map(|index| 10 * index).collect();
        let expected: Vec<_> = numbers.chunks(batch_size).map(<[usize]>::to_vec).collect();
        assert_eq!(all, expected, "{threads} threads, batches of {batch_size}");
        workers.into_iter().for_each(|worker| worker.join().expect("ends with the pass"));
        assert_eq!((loader.state().epoch, loader.state().position), (1, 0));
    }
}

#[test]
fn without_a_function_for_each_sample_there_is_one_task_per_batch() {
    let folder = folder();
    let loader = loader(&folder, config(4, 2));
    let (mut batches, tasks) = loader.transformed(false, uninterrupted()).expect("begins");
    let worker = thread::spawn(move || work(&tasks));
    let all: Vec<_> = std::iter::from_fn(|| made(&mut batches)).collect();
    assert_eq!(all, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
    worker.join().expect("ends");
}

#[test]
fn tasks_are_begun_in_order_and_only_so_many_steps_ahead_of_the_consumer() {
    let folder = folder();
    let loader = loader(&folder, LoaderConfig { window_samples: Some(SAMPLES), ..config(2, 1) });
    let (mut batches, tasks) = loader.transformed(true, uninterrupted()).expect("begins");
    let (sender, began) = channel();
    let worker = thread::spawn(move || {
        while let Some(mut task) = tasks.next() {
            let (sample, values) = given(&mut task);
            let value = sample.map_or_else(|| HostValue::new(values.clone()), HostValue::new);
            let _ = sender.send((sample, values));
            task.complete(value);
        }
    });
    let of_step = |step: usize| {
        let pair = [2 * step, 2 * step + 1];
        [(Some(pair[0]), vec![]), (Some(pair[1]), vec![]), (None, pair.to_vec())]
    };
    let expect = |steps: std::ops::Range<usize>| {
        for expected in steps.flat_map(of_step) {
            assert_eq!(began.recv_timeout(Duration::from_secs(30)).expect("begun"), expected);
        }
        assert!(began.recv_timeout(Duration::from_millis(100)).is_err(), "no further ahead");
    };
    // One step that the thread is busy with, one that is complete, one that comes next.
    expect(0..3);
    assert_eq!(made(&mut batches), Some(vec![0, 1]));
    expect(3..4);
    drop(batches);
    worker.join().expect("ends when nobody waits any more");
}

#[test]
fn a_failure_comes_in_its_batchs_place_and_the_first_of_several_counts() {
    let folder = folder();
    let loader = loader(&folder, config(3, 3));
    let (mut batches, tasks) = loader.transformed(true, uninterrupted()).expect("begins");
    let (sender, taken) = channel();
    let collector = thread::spawn(move || {
        while let Some(task) = tasks.next() {
            let _ = sender.send(task);
        }
    });
    let next = || {
        let mut task = within(&taken, Duration::from_secs(30)).expect("a task");
        let (sample, _) = given(&mut task);
        (sample, task)
    };
    let (first, second, third) = (next(), next(), next());
    assert_eq!([first.0, second.0, third.0], [Some(0), Some(1), Some(2)]);
    third.1.fail(HostValue::new("third"));
    first.1.complete(HostValue::new(0_usize));
    second.1.fail(HostValue::new("second"));
    let batch = batches.next_batch(uninterrupted()).expect("one").expect("a failure of the host's is no error");
    let Content::Host(failure) = batch.content else { panic!("made by functions") };
    assert_eq!(failure.get::<&str>(), Some(&"second"));
    assert_eq!(next().0, Some(3), "the pass goes on");
    drop(batches);
    collector.join().expect("ends");
}

#[test]
fn a_task_that_a_thread_drops_fails_its_step_and_one_that_nobody_waits_for_is_forgotten() {
    let folder = folder();
    let loader = loader(&folder, config(2, 1));
    let (mut batches, tasks) = loader.transformed(true, uninterrupted()).expect("begins");
    drop(tasks.next().expect("a task"));
    let error = batches.next_batch(uninterrupted()).expect("one").expect_err("left undone");
    assert!(error.to_string().contains("a thread left it"), "{error}");
    assert!(batches.is_over() && tasks.next().is_none());

    let (batches, tasks) = loader.transformed(true, uninterrupted()).expect("begins");
    let task = tasks.next().expect("a task");
    drop(batches);
    task.complete(HostValue::new(1_usize));
    assert!(tasks.next().is_none());
}

#[test]
fn values_are_let_go_when_nobody_waits_for_them() {
    let folder = folder();
    let value = Arc::new(());
    let loader = loader(&folder, config(2, 1));
    let (batches, tasks) = loader.transformed(true, uninterrupted()).expect("begins");
    tasks.next().expect("a task").complete(HostValue::new(value.clone()));
    assert_eq!(Arc::strong_count(&value), 2);
    drop(batches);
    assert_eq!(Arc::strong_count(&value), 1);
}

#[test]
fn seeds_of_tasks_are_those_of_their_samples() {
    let folder = folder();
    let loader = loader(&folder, config(2, 1));
    loader.set_epoch(3);
    let (_batches, tasks) = loader.transformed(true, uninterrupted()).expect("begins");
    let task = tasks.next().expect("a task");
    assert_eq!(task.seed(), loader.sample_seed(3, 0));
    assert_ne!(task.seed(), loader.sample_seed(2, 0));
    assert_eq!(task.keys(), ["000"]);
}

#[test]
fn a_loader_that_puts_samples_together_itself_has_no_use_for_functions() {
    let folder = folder();
    let loader = loader(&folder, LoaderConfig { collate: Collation::Stack, ..config(2, 1) });
    let error = loader.transformed(true, uninterrupted()).expect_err("refused").to_string();
    assert!(error.contains("they need samples apart"), "{error}");
}
