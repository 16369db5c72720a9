//! What a source lists, gives and means.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use headwater::config::ByteSize;
use headwater::engine::{Engine, uninterrupted};
use headwater::format::decoder_of;
use headwater::source::{ObjectMeta, ReadRequest, Source, Version};
use headwater::value::Value;
use headwater::{Error, ErrorKind, Result, object};

use super::advice::{self, Adviser};
use super::report::{Finding, Found};
use crate::place::Place;

/// Pages looked at until one has objects of a known format: the first may list folders alone.
const PAGES_TRIED: usize = 16;
/// Objects of a page that are asked for their sizes, where it does not tell them.
const LOOKED_AT: usize = 64;
/// Nobody wants to wait for the whole of a larger object.
const LARGEST_READ: u64 = 256 << 20;
/// As much of an object as a range asks for, if it has twice that.
const RANGE_BYTES: u64 = 64 << 10;
/// With these words the core tells that the server itself refused another version.
const REFUSED_BY_SERVER: &str = "since it was listed";

/// An open source, and objects of it that may be read: of known formats, if there are any.
pub(super) struct Listed {
    pub(super) source: Arc<dyn Source>,
    /// By size.
    pub(super) objects: Vec<ObjectMeta>,
}

/// The object that further steps are about.
pub(super) struct Read {
    object: ObjectMeta,
    bytes: Bytes,
}

#[derive(Default)]
struct Looked {
    objects: Vec<ObjectMeta>,
    pages: usize,
    has_more: bool,
    time: Duration,
}

pub(super) fn listed(place: &Place, uri: &str, adviser: &Adviser<'_>) -> Found<Listed> {
    let found = place.open(uri).and_then(|source| Ok((look(source.clone())?, source)));
    let (looked, source) = match found {
        Ok(found) => found,
        Err(error) => return (Finding::fail(&error, adviser.on(&error)), None),
    };
    let Looked { objects, pages, has_more, time } = looked;
    let count = objects.len();
    let (mut known, mut others): (Vec<_>, Vec<_>) =
        objects.into_iter().filter(|object| object.size > 0).partition(|object| decoder_of(&object.key).is_some());
    let milliseconds = time.as_secs_f64() * 1e3;
    let on = if pages == 1 { "the first page".to_owned() } else { format!("the first {pages} pages") };
    let more = if has_more { ", more follow" } else { "" };
    let fact = format!("{count} objects on {on}, {} of a known format, in {milliseconds:.0} ms{more}", known.len());
    let objection = if count == 0 {
        Some((
            "nothing is there",
            "check the prefix: it is the full name of a folder, in upper and lower case".to_owned(),
        ))
    } else if known.is_empty() && others.is_empty() {
        Some(("all of them are empty", "see how they were written".to_owned()))
    } else if known.is_empty() {
        Some(("no name ends as one of those that are read", format!("they end in {}", advice::formats())))
    } else {
        None
    };
    let finding = Finding::unless(objection.map(|(words, advice)| (words.to_owned(), advice)), fact)
        .with("objects", count)
        .with("known", known.len())
        .with("pages", pages)
        .with("has_more", has_more)
        .with("milliseconds", milliseconds);
    let objects = if known.is_empty() { &mut others } else { &mut known };
    objects.sort_unstable_by_key(|object| object.size);
    let listed = Listed { source, objects: std::mem::take(objects) };
    (finding, Some(listed).filter(|listed| !listed.objects.is_empty()))
}

fn look(source: Arc<dyn Source>) -> Result<Looked> {
    let looking = async move {
        let mut looked = Looked::default();
        let mut waiting: Vec<Option<String>> = vec![None];
        while looked.pages < PAGES_TRIED
            && !looked.objects.iter().any(|object| decoder_of(&object.key).is_some())
            && let Some(token) = waiting.pop()
        {
            let began = Instant::now();
            let page = source.page("", token.as_deref()).await?;
            looked.time += began.elapsed();
            looked.pages += 1;
            looked.objects.extend(page.objects);
            looked.has_more |= page.untold.len() > LOOKED_AT;
            let heads = page.untold.iter().take(LOOKED_AT).map(|key| source.head(key));
            looked.objects.extend(try_join_all(heads).await?);
            waiting.extend(page.next.into_iter().map(Some));
        }
        looked.has_more |= !waiting.is_empty();
        Ok(looked)
    };
    Engine::current()?.block_on("listing", looking, uninterrupted())?
}

fn read_one(source: &Arc<dyn Source>, request: ReadRequest) -> Result<Bytes> {
    let (engine, source) = (Engine::current()?, source.clone());
    let reading = async move { source.read(&request, engine.buffers()).await };
    Ok(engine.block_on("reading", reading, uninterrupted())??.bytes)
}

pub(super) fn read(listed: &Listed, adviser: &Adviser<'_>) -> Found<Read> {
    let fits = listed.objects.partition_point(|object| object.size <= LARGEST_READ);
    // The middle one stands for the rest.
    let Some(object) = listed.objects[..fits].get(fits / 2) else {
        let smallest = ByteSize(listed.objects.first().map_or(0, |object| object.size));
        let advice = "name a folder that has smaller objects too, to have one read";
        return (Finding::warn(format!("the smallest object has {smallest}: none was read whole"), advice), None);
    };
    let ObjectMeta { key, size, version } = object.clone();
    let began = Instant::now();
    let request = ReadRequest { version, size: Some(size), ..ReadRequest::whole(key) };
    let bytes = match read_one(&listed.source, request) {
        Ok(bytes) => bytes,
        Err(error) => return (Finding::fail(&error, adviser.on(&error)), None),
    };
    let milliseconds = began.elapsed().as_secs_f64() * 1e3;
    let (key, size) = (&object.key, ByteSize(object.size));
    let checksum = listed.source.verified();
    let pinned = match &object.version {
        _ if listed.source.is_pinned() => ", pinned by its commit".to_owned(),
        Version::Unknown => String::new(),
        version => format!(", pinned to version {version}"),
    };
    let verified = match checksum {
        Some(algorithm) => format!(", {algorithm} verified"),
        None if adviser.server.is_none() => String::new(),
        None => ", no checksum named by the server".to_owned(),
    };
    let fact = format!("{key}: {size} in {milliseconds:.0} ms{pinned}{verified}");
    let is_versioned = object.version != Version::Unknown || listed.source.is_pinned();
    let objection = (!is_versioned).then(|| {
        let advice = "have the server send ETag or Last-Modified, so that objects that are replaced are noticed";
        ("the server tells no version".to_owned(), advice.to_owned())
    });
    let finding = Finding::unless(objection, fact)
        .with("key", key.as_str())
        .with("bytes", object.size)
        .with("milliseconds", milliseconds)
        .with("pinned", is_versioned)
        .with("checksum", checksum);
    (finding, Some(Read { object: object.clone(), bytes }))
}

pub(super) fn range(source: &Arc<dyn Source>, read: &Read, adviser: &Adviser<'_>) -> Found<()> {
    let size = read.object.size;
    let start = size / 4;
    let end = start + (size / 2).clamp(1, RANGE_BYTES);
    let request = ReadRequest { range: Some(start..end), ..ReadRequest::whole(&read.object.key) };
    let ranged = read_one(source, ReadRequest { version: read.object.version.clone(), ..request.clone() });
    let (conditions, refuses) = match another(&read.object.version).filter(|_| !source.is_pinned()) {
        None => ("nothing to make conditions of".to_owned(), None),
        Some(version) => conditions(read_one(source, ReadRequest { version, range: None, ..request })),
    };
    let bytes = ByteSize(end - start);
    let finding = match ranged {
        Ok(found) if found == read.bytes.slice(start as usize..end as usize) => {
            Finding::good(format!("{bytes} out of the middle come alone and are the same; {conditions}"))
                .with("ranges", true)
        }
        Ok(_) => {
            let error = Error::new(ErrorKind::Corrupt, "read", source.uri_of(&read.object.key))
                .because("a range of it has other bytes than the whole");
            Finding::fail(&error, adviser.on(&error))
        }
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            let fact = format!("the server answers ranges with whole objects; {conditions}");
            Finding::warn(
                fact,
                "large objects are read whole, on one connection each: turn ranges on, if the server can",
            )
            .with("ranges", false)
        }
        Err(error) => Finding::fail(&error, adviser.on(&error)),
    };
    (finding.with("conditions", refuses), Some(()))
}

/// What came of a read that expects a version that is not there. Headwater refuses it in any case.
fn conditions(read: Result<Bytes>) -> (String, Option<bool>) {
    match read {
        Err(error) if error.kind() == ErrorKind::Changed && error.to_string().contains(REFUSED_BY_SERVER) => {
            ("another version is refused by the server".to_owned(), Some(true))
        }
        Err(error) if error.kind() == ErrorKind::Changed => {
            ("another version is refused on arrival, the server takes no conditions".to_owned(), Some(false))
        }
        Err(error) => (format!("what conditions do was not found out ({error})"), None),
        Ok(_) => ("another version was not refused".to_owned(), Some(false)),
    }
}

/// A version that an object does not have, spelt as its own is.
fn another(version: &Version) -> Option<Version> {
    Some(match version {
        Version::Unknown => return None,
        Version::Modified(_) => Version::Modified(1_000_000_000),
        Version::ETag(tag) if tag.bytes().all(|byte| byte.is_ascii_digit()) => Version::ETag("1".to_owned()),
        Version::ETag(_) => Version::ETag("\"0x0\"".to_owned()),
    })
}

pub(super) fn decodes(source: &Arc<dyn Source>, read: &Read) -> Found<()> {
    let key = &read.object.key;
    if decoder_of(key).is_none() {
        let advice = format!("name objects by their format: {}", advice::formats());
        return (Finding::warn(format!("{key}: its name tells of no format"), advice), Some(()));
    }
    let finding = match object::decode(&source.uri_of(key), &read.bytes) {
        Ok(value) => {
            let tensor_bytes = value.tensor_bytes() as u64;
            let fact = format!("{key}: {}, {} of tensors", what(&value), ByteSize(tensor_bytes));
            Finding::good(fact).with("tensor_bytes", tensor_bytes)
        }
        Err(error) => Finding::fail(&error, "see whether its writer can read it; `headwater inspect` shows one object"),
    };
    (finding, Some(()))
}

fn what(value: &Value) -> String {
    match value {
        Value::Dict(it) => format!("a dict of {}", it.items.len()),
        Value::List(it) | Value::Tuple(it) => format!("a list of {}", it.len()),
        Value::Tensor(_) => "one tensor".to_owned(),
        _ => "one value".to_owned(),
    }
}
