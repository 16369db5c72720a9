//! Several replicas of one place.

use super::*;
use crate::manifest::Listing;

fn replicas(of: &[&Arc<Scripted>]) -> (Arc<Metrics>, Arc<dyn Source>) {
    let metrics = Arc::<Metrics>::default();
    let sources = of.iter().map(|&source| source.clone() as Arc<dyn Source>).collect();
    let policies = Policies { hedge: 0.0, ..Policies::default() };
    let source = with_policies(sources, &policies, &metrics);
    (metrics, source)
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_dies_costs_next_to_nothing_and_is_read_again_when_it_is_back() {
    let ((is_off, first), (_, second)) = (switched("first"), switched("second"));
    let (metrics, source) = replicas(&[&first, &second]);
    let buffers = pool();
    let read = |times: usize| {
        let (source, buffers) = (source.clone(), buffers.clone());
        async move {
            for _ in 0..times {
                source.read(&sized("small", 10), &buffers).await.expect("read");
            }
        }
    };
    read(50).await;
    assert_eq!((first.reads(), second.reads()), (50, 0));
    is_off.store(true, Ordering::SeqCst);
    let ((), took) = timed(read(500)).await;
    assert!(took < Duration::from_millis(5500), "500 reads of 10 ms: {took:?}");
    let tried = first.reads() - 50;
    assert!((3..=10).contains(&tried), "left alone but for a try now and then: {tried}");
    assert_eq!((counted(&metrics, Metric::ReplicaBreakerOpened), counted(&metrics, Metric::ReplicasOpen)), (1, 1));
    is_off.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(30)).await;
    let before = first.reads();
    read(20).await;
    assert_eq!(first.reads() - before, 20, "the first is preferred again");
    assert_eq!(counted(&metrics, Metric::ReplicasOpen), 0);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_hangs_is_outrun_and_then_left_alone() {
    let is_off = Arc::new(AtomicBool::new(false));
    let switch = is_off.clone();
    let first = Scripted::new("first", move |_, _| {
        Act::After(if switch.load(Ordering::SeqCst) { HOUR } else { Duration::from_millis(10) })
    });
    let (_, second) = switched("second");
    let (metrics, source) = replicas(&[&first, &second]);
    let read = async |times: usize| {
        for _ in 0..times {
            source.read(&sized("small", 10), &pool()).await.expect("read");
        }
    };
    read(50).await;
    is_off.store(true, Ordering::SeqCst);
    let ((), took) = timed(read(200)).await;
    assert!(took < Duration::from_secs(4), "200 reads of 10 ms and less than 2 s of waiting: {took:?}");
    assert_eq!(counted(&metrics, Metric::ReplicaBreakerOpened), 1);
}

#[tokio::test(start_paused = true)]
async fn a_replica_with_other_content_is_refused() {
    let ((is_off, first), (_, second)) = (switched("first"), switched("second"));
    let (metrics, source) = replicas(&[&first, &second]);
    let buffers = pool();
    for size in [10, 11] {
        source.read(&sized("small", 10), &buffers).await.expect("from the first");
        second.inner.put("small", vec![9; size]);
        is_off.store(true, Ordering::SeqCst);
        let error = source.read(&sized("small", 10), &buffers).await.expect_err("other content");
        assert!(error.to_string().contains("the replica serves other"), "{error}");
        is_off.store(false, Ordering::SeqCst);
        sleep(Duration::from_mins(1)).await;
    }
    assert!(counted(&metrics, Metric::ReplicaRefused) >= 2);
    // It may be the first that is wrong: the other one is taken.
    first.inner.put("small", vec![7; 12]);
    second.inner.put("small", vec![1; 10]);
    let read = source.read(&sized("small", 10), &buffers).await.expect("from the second");
    assert_eq!(read.bytes, vec![1; 10]);
}

#[tokio::test(start_paused = true)]
async fn what_one_replica_lacks_another_may_have_and_all_failures_are_told() {
    let ((first_off, first), (second_off, second)) = (switched("first"), switched("second"));
    let (_, source) = replicas(&[&first, &second]);
    let buffers = pool();
    second.inner.put("more", vec![1; 10]);
    assert_eq!(source.read(&sized("more", 10), &buffers).await.expect("from the second").bytes.len(), 10);
    let error = source.read(&sized("nowhere", 10), &buffers).await.expect_err("nowhere");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    for place in ["memory://first/nowhere", "memory://second/nowhere"] {
        assert!(error.to_string().contains(place), "{error}");
    }
    first_off.store(true, Ordering::SeqCst);
    second_off.store(true, Ordering::SeqCst);
    let (read, took) = timed(source.read(&sized("small", 10), &buffers)).await;
    let error = read.expect_err("both are down");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(took < Duration::from_secs(61) && error.to_string().contains("every replica failed"), "{took:?} {error}");
}

#[tokio::test(start_paused = true)]
async fn replicas_keep_to_versions_of_their_own() {
    let ((is_off, first), (_, second)) = (switched("first"), switched("second"));
    // The same bytes under another version.
    second.inner.put("small", vec![1; 10]);
    let (_, source) = replicas(&[&first, &second]);
    let listed = source.page("", None).await.expect("listed");
    let small = listed.objects.iter().find(|object| object.key == "small").expect("there").clone();
    let request = ReadRequest { version: small.version, ..sized("small", 10) };
    assert_eq!(source.read(&request, &pool()).await.expect("from the first").bytes.len(), 10);
    is_off.store(true, Ordering::SeqCst);
    assert_eq!(source.read(&request, &pool()).await.expect("from the second").bytes.len(), 10);
    // Listed by the second, an object has no version that the first could be asked for.
    let listed = source.page("", None).await.expect("listed by the second");
    assert!(listed.objects.iter().all(|object| object.version == Version::Unknown));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_hangs_is_outrun_on_listings_too() {
    let (first, (_, second)) = (Scripted::slow(HOUR), switched("second"));
    let (_, source) = replicas(&[&first, &second]);
    let (listed, took) = timed(list_sorted(source.as_ref(), "", |_| true)).await;
    assert_eq!(listed.expect("listed").len(), 2);
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_dies_while_it_is_listed_has_the_listing_begin_anew() {
    let ((is_off, first), (_, second)) = (switched("first"), switched("second"));
    (0..2_500).for_each(|number| first.inner.put(format!("{number:04}.pt"), vec![1]));
    (0..2_500).for_each(|number| second.inner.put(format!("{number:04}.pt"), vec![1]));
    let (_, source) = replicas(&[&first, &second]);
    let listed = std::sync::atomic::AtomicU64::new(0);
    let dying = async {
        sleep(Duration::from_millis(15)).await;
        is_off.store(true, Ordering::SeqCst);
    };
    let listing = Listing::collect(source.as_ref(), |key| key.contains(".pt"), &listed);
    let ((listing, ()), took) = timed(async { tokio::join!(listing, dying) }).await;
    let listing = listing.expect("listed by the second");
    assert_eq!((listing.len(), listing.ignored, listed.into_inner()), (2_500, 2, 2_500));
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_one_replica_lacks_is_waited_for_while_another_is_down() {
    let ((first_off, first), (_, second)) = (switched("first"), switched("second"));
    let (_, source) = replicas(&[&first, &second]);
    first.inner.put("more", vec![1; 10]);
    first_off.store(true, Ordering::SeqCst);
    let back = async {
        sleep(Duration::from_secs(5)).await;
        first_off.store(false, Ordering::SeqCst);
    };
    let (buffers, request) = (pool(), sized("more", 10));
    let (read, ()) = tokio::join!(source.read(&request, &buffers), back);
    assert_eq!(read.expect("from the first").bytes.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn the_listed_version_is_believed_rather_than_what_was_read_first() {
    let ((is_off, first), (_, second)) = (switched("first"), switched("second"));
    let (_, source) = replicas(&[&first, &second]);
    let listed = source.head("small").await.expect("there");
    let request = ReadRequest { version: listed.version, ..sized("small", 10) };
    second.inner.put("small", vec![6; 10]);
    is_off.store(true, Ordering::SeqCst);
    assert_eq!(source.read(&request, &pool()).await.expect("nobody knows better").bytes, vec![6; 10]);
    is_off.store(false, Ordering::SeqCst);
    sleep(Duration::from_mins(1)).await;
    assert_eq!(source.read(&request, &pool()).await.expect("the truth").bytes, vec![1; 10]);
    is_off.store(true, Ordering::SeqCst);
    let error = source.read(&request, &pool()).await.expect_err("a lie");
    assert!(error.to_string().contains("the replica serves other bytes"), "{error}");
}

/// How the first replica's reads went on: the share of them and how long those take.
fn now_and_then(share: usize, stalled: Duration) -> Arc<Scripted> {
    Scripted::new("first", move |number, _| {
        Act::After(if number % share == share - 1 { stalled } else { Duration::from_millis(10) })
    })
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_stalls_now_and_then_costs_a_moment_each_time_and_never_a_read() {
    let minutes = Duration::from_mins(10);
    for (stalled, share) in [(HOUR, 20), (HOUR, 10), (HOUR, 5), (HOUR, 3), (Duration::from_secs(15), 10), (minutes, 5)]
    {
        for hedge in [0.0, 0.05] {
            let (first, second) = (now_and_then(share, stalled), Scripted::slow(Duration::from_millis(10)));
            let policies = Policies { hedge, ..Policies::default() };
            let source = with_policies(vec![first, second], &policies, &Arc::default());
            for number in 0..1_200 {
                let (read, took) = timed(source.read(&sized("small", 10), &pool())).await;
                let cell = format!("read {number}, 1 in {share} stalled {stalled:?}, hedge {hedge}");
                assert!(read.is_ok(), "{cell}: {read:?}");
                // Until enough was seen, a second; a hedge has its own patience before.
                let most = if number < 40 || hedge > 0.0 { 1_100 } else { 300 };
                assert!(took.as_millis() < most, "{cell}: {took:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn replicas_on_a_thin_line_are_not_asked_twice_for_everything() {
    for seconds in [3, 8, 20] {
        let slow = || Scripted::slow(Duration::from_secs(seconds));
        let (first, second) = (slow(), slow());
        let (metrics, source) = replicas(&[&first, &second]);
        for _ in 0..200 {
            source.read(&sized("small", 10), &pool()).await.expect("read");
        }
        let twice = counted(&metrics, Metric::ReplicaFailovers);
        assert!(twice < 40, "only until that was seen: {twice} of {seconds} s");
        assert_eq!(counted(&metrics, Metric::ReplicaBreakerOpened), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn readers_who_leave_together_count_once_against_a_replica() {
    let (first, second) = (Scripted::slow(Duration::from_millis(1_500)), Scripted::slow(Duration::from_millis(1_500)));
    let (metrics, source) = replicas(&[&first, &second]);
    let (request, buffers) = (sized("small", 10), pool());
    let reads = join_all((0..8).map(|_| source.read(&request, &buffers)));
    assert!(tokio::time::timeout(Duration::from_millis(1_400), reads).await.is_err(), "they leave");
    assert_eq!(counted(&metrics, Metric::ReplicaBreakerOpened), 0);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_was_given_up_at_the_deadline_is_left_alone() {
    let (first, (_, second)) = (Scripted::slow(HOUR), switched("second"));
    let (metrics, source) = replicas(&[&first, &second]);
    for _ in 0..3 {
        sleep(Duration::from_secs(1)).await;
        let gone = tokio::time::timeout(Duration::from_millis(1_005), source.read(&sized("small", 10), &pool())).await;
        assert!(gone.is_err(), "the second has not answered yet");
    }
    assert_eq!(counted(&metrics, Metric::ReplicaBreakerOpened), 1);
    let (read, took) = timed(source.read(&sized("small", 10), &pool())).await;
    assert!(read.is_ok() && took < Duration::from_millis(20), "{took:?}");
}

/// Its first page comes, and then this happens.
#[derive(Debug)]
struct SecondPage {
    inner: Memory,
    after: Duration,
    fails: Option<ErrorKind>,
    /// The second page says to go on with itself.
    circles: bool,
}

#[async_trait]
impl Source for SecondPage {
    fn uri(&self) -> &str {
        self.inner.uri()
    }

    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<Listed> {
        if token.is_some() {
            sleep(self.after).await;
            if let Some(kind) = self.fails {
                return Err(Error::new(kind, "list", self.uri()).because("the second page"));
            }
        }
        let mut listed = self.inner.page(prefix, token).await?;
        if let Some(token) = token.filter(|_| self.circles) {
            listed.next = vec![token.to_owned()];
        }
        Ok(listed)
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.inner.head(key).await
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        self.inner.read(request, buffers).await
    }
}

#[tokio::test(start_paused = true)]
async fn however_a_replica_fails_while_it_is_listed_another_one_is_listed_instead() {
    let seconds = Duration::from_secs;
    let cells = [
        (seconds(0), Some(ErrorKind::Denied)),
        (seconds(0), Some(ErrorKind::Invalid)),
        (seconds(0), Some(ErrorKind::NotFound)),
        (seconds(0), Some(ErrorKind::Corrupt)),
        (seconds(0), Some(ErrorKind::Unavailable)),
        (seconds(15), Some(ErrorKind::Timeout)),
        (HOUR, None),
        // In a circle.
        (seconds(0), None),
    ];
    let limits = [(8, 60), (2, 60), (0, 60), (8, 1), (0, 1)].map(|(retries, deadline)| (retries, seconds(deadline)));
    for ((after, fails), (retries, deadline)) in cells.iter().flat_map(|&cell| limits.map(|limit| (cell, limit))) {
        let first =
            SecondPage { inner: Memory::new("first"), after, fails, circles: after.is_zero() && fails.is_none() };
        let second = Arc::new(Memory::new("second"));
        for number in 0..2_500 {
            first.inner.put(format!("{number:04}.pt"), vec![1]);
            second.put(format!("{number:04}.pt"), vec![1]);
        }
        let throttled = Arc::new(Throttle::new(second, Throttling::default()));
        let metrics = Arc::<Metrics>::default();
        let policies =
            Policies { patience: Patience { deadline, retries, ..Patience::default() }, ..Policies::default() };
        let source = with_policies(vec![Arc::new(first), throttled], &policies, &metrics);
        let listed = std::sync::atomic::AtomicU64::new(0);
        let listing = Listing::collect(source.as_ref(), |_| true, &listed);
        let (listing, took) = timed(listing).await;
        let listing = listing.unwrap_or_else(|error| panic!("{fails:?}: {}", error.report()));
        assert_eq!((listing.len(), listed.into_inner()), (2_500, 2_500));
        assert!(took < seconds(4), "{fails:?} after {after:?}: {took:?}");
        assert_eq!(counted(&metrics, Metric::ReplicaBreakerOpened), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_every_page_takes_long_is_listed_all_the_same() {
    let slow = || {
        let source = Scripted::slow(Duration::from_secs(3));
        (0..5_500).for_each(|number| source.inner.put(format!("{number:04}.pt"), vec![1]));
        source
    };
    let (first, second) = (slow(), slow());
    let (metrics, source) = replicas(&[&first, &second]);
    let listed = std::sync::atomic::AtomicU64::new(0);
    let listing = Listing::collect(source.as_ref(), |key| key.contains(".pt"), &listed).await.expect("listed");
    assert_eq!(listing.len(), 5_500);
    assert_eq!(counted(&metrics, Metric::ReplicaBreakerOpened), 0);
}

/// Twenty folders, one of which this replica never lists.
#[derive(Debug)]
struct BadFolder(Memory);

#[async_trait]
impl Source for BadFolder {
    fn uri(&self) -> &str {
        self.0.uri()
    }

    async fn page(&self, _: &str, token: Option<&str>) -> Result<Listed> {
        sleep(Duration::from_millis(50)).await;
        let folders = || (0..20).map(|folder| format!("{folder:02}/")).collect();
        let Some(token) = token else { return Ok(Listed { next: folders(), ..Listed::default() }) };
        match token {
            "07/" => Err(Error::new(ErrorKind::Unavailable, "list", self.uri()).because("this folder, always")),
            folder => self.0.page(folder, None).await,
        }
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.0.head(key).await
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        self.0.read(request, buffers).await
    }
}

#[tokio::test(start_paused = true)]
async fn one_folder_that_a_replica_never_lists_has_another_one_listed() {
    let (first, second) = (Memory::new("first"), Arc::new(Memory::new("second")));
    for key in (0..20).flat_map(|folder| (0..10).map(move |number| format!("{folder:02}/{number}.pt"))) {
        first.put(&*key, vec![1]);
        second.put(&*key, vec![1]);
    }
    let throttled = Arc::new(Throttle::new(second, Throttling::default()));
    let source = with_policies(vec![Arc::new(BadFolder(first)), throttled], &Policies::default(), &Arc::default());
    let listed = std::sync::atomic::AtomicU64::new(0);
    let (listing, took) = timed(Listing::collect(source.as_ref(), |_| true, &listed)).await;
    assert_eq!(listing.expect("listed by the second").len(), 200);
    assert!(took < Duration::from_secs(3), "{took:?}");
}
