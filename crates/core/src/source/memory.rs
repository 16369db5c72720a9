//! Objects in memory, for tests and for embedding.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::Mutex;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{Listed, ObjectBytes, ObjectMeta, ReadRequest, Source, Version, check_key, check_range, check_version};
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};

/// A map from keys to bytes. Every `put` gives the object a new version.
#[derive(Debug)]
pub struct Memory {
    uri: String,
    page_objects: usize,
    puts: AtomicU64,
    objects: Mutex<BTreeMap<String, (Bytes, Version)>>,
}

impl Memory {
    /// An empty source; `name` appears in its URI.
    pub fn new(name: &str) -> Self {
        Self { uri: format!("memory://{name}"), page_objects: 1000, puts: AtomicU64::new(0), objects: Mutex::default() }
    }

    /// Lists in pages of so many objects.
    pub fn with_page_objects(mut self, objects: usize) -> Self {
        self.page_objects = objects.max(1);
        self
    }

    /// Stores an object, replacing the one of that key.
    pub fn put(&self, key: impl Into<String>, bytes: impl Into<Bytes>) {
        let version = Version::ETag(format!("\"{}\"", self.puts.fetch_add(1, Ordering::Relaxed)));
        self.objects.lock().insert(key.into(), (bytes.into(), version));
    }

    /// Removes an object; whether there was one.
    pub fn remove(&self, key: &str) -> bool {
        self.objects.lock().remove(key).is_some()
    }

    fn find(&self, op: &'static str, key: &str) -> Result<(Bytes, ObjectMeta)> {
        check_key(&self.uri, key)?;
        let objects = self.objects.lock();
        let (bytes, version) = objects
            .get(key)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, op, self.uri_of(key)).because("no such object"))?;
        let meta = ObjectMeta { key: key.to_owned(), size: bytes.len() as u64, version: version.clone() };
        Ok((bytes.clone(), meta))
    }
}

#[async_trait]
impl Source for Memory {
    fn uri(&self) -> &str {
        &self.uri
    }

    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<Listed> {
        let folder = if prefix.is_empty() { String::new() } else { format!("{}/", prefix.trim_end_matches('/')) };
        let objects = self.objects.lock();
        let after = token.unwrap_or_default();
        let mut below = objects.iter().filter(|(key, _)| key.starts_with(&folder) && key.as_str() > after);
        let meta = |(key, (bytes, version)): (&String, &(Bytes, Version))| ObjectMeta {
            key: key.clone(),
            size: bytes.len() as u64,
            version: version.clone(),
        };
        let page: Vec<_> = below.by_ref().take(self.page_objects).map(meta).collect();
        let last = page.last().map(|object| object.key.clone()).filter(|_| below.next().is_some());
        Ok(Listed { objects: page, next: last.into_iter().collect(), ..Listed::default() })
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        self.find("look at", key).map(|(_, meta)| meta)
    }

    fn publish<'a>(&'a self, key: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            check_key(&self.uri, key)?;
            self.put(key, bytes);
            Ok(())
        })
    }

    async fn read(&self, request: &ReadRequest, buffers: &BufferPool) -> Result<ObjectBytes> {
        let (bytes, meta) = self.find("read", &request.key)?;
        let name = self.uri_of(&request.key);
        check_version(&name, &request.version, &meta.version)?;
        let range = check_range(&name, request.range.as_ref(), meta.size)?;
        // A copy, since whoever gets the bytes may write to them.
        let wanted = &bytes[range.start as usize..range.end as usize];
        let mut buffer = buffers.take(wanted.len());
        buffer.copy_from_slice(wanted);
        Ok(ObjectBytes { bytes: buffer.freeze(), meta })
    }
}
