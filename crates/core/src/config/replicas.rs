//! Where a field is: one place, or several that hold the same objects.

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::source::SourceSpec;

/// One source or several replicas, in order of preference. In configuration a URI, a table with `uri` and options, or a list of
/// those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replicas(pub Vec<SourceSpec>);

impl From<SourceSpec> for Replicas {
    fn from(spec: SourceSpec) -> Self {
        Self(vec![spec])
    }
}

impl From<&str> for Replicas {
    fn from(uri: &str) -> Self {
        SourceSpec::from(uri).into()
    }
}

impl Serialize for Replicas {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [only] => only.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Replicas {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReplicasVisitor)
    }
}

struct ReplicasVisitor;

impl<'de> Visitor<'de> for ReplicasVisitor {
    type Value = Replicas;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a URI, a table with `uri` and options, or a list of those in order of preference")
    }

    fn visit_str<E: de::Error>(self, uri: &str) -> Result<Replicas, E> {
        Ok(uri.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Replicas, A::Error> {
        SourceSpec::deserialize(MapAccessDeserializer::new(map)).map(Into::into)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Replicas, A::Error> {
        let specs = Vec::deserialize(SeqAccessDeserializer::new(seq))?;
        if specs.is_empty() { Err(de::Error::invalid_length(0, &self)) } else { Ok(Replicas(specs)) }
    }
}
