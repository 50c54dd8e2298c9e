//! The JSON of a table, entry by entry: it may be longer than what should be in memory at once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::TocError;
use super::tree::Builder;

/// One entry of either format.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) link_name: String,
    #[serde(default)]
    pub(super) mode: i64,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default)]
    pub(super) uid: u32,
    #[serde(default)]
    pub(super) gid: u32,
    #[serde(default)]
    pub(super) modtime: Option<String>,
    #[serde(default)]
    pub(super) xattrs: Option<BTreeMap<String, Option<String>>>,
    #[serde(default)]
    pub(super) digest: String,
    #[serde(default)]
    pub(super) offset: u64,
    #[serde(default)]
    pub(super) end_offset: u64,
    #[serde(default)]
    pub(super) inner_offset: u64,
    #[serde(default)]
    pub(super) chunk_size: u64,
    #[serde(default)]
    pub(super) chunk_offset: u64,
    #[serde(default)]
    pub(super) chunk_digest: String,
}

/// Tables up to this length are read in one piece, which is several times as fast.
const WHOLE_BYTES: u64 = 16 << 20;

/// Hands the entries of a table of about `len` bytes to `builder`.
pub(super) fn entries(mut json: impl Read, len: u64, builder: &mut Builder<'_>) -> Result<(), TocError> {
    let mut failure = None;
    let read = match len <= WHOLE_BYTES {
        true => {
            let mut bytes = Vec::new();
            let all = json.take(WHOLE_BYTES + 1).read_to_end(&mut bytes);
            all.map_err(serde_json::Error::io).and_then(|_| {
                let mut input = serde_json::Deserializer::from_slice(&bytes);
                Table { builder, failure: &mut failure }.deserialize(&mut input).and_then(|()| input.end())
            })
        }
        false => {
            let json = std::io::BufReader::with_capacity(1 << 16, json.by_ref());
            let mut input = serde_json::Deserializer::from_reader(json);
            Table { builder, failure: &mut failure }.deserialize(&mut input).and_then(|()| input.end())
        }
    };
    match (failure, read) {
        (Some(failure), _) => Err(failure),
        (None, Err(error)) => Err(TocError::Hostile(format!("invalid JSON: {error}"))),
        (None, Ok(())) => Ok(()),
    }
}

struct Table<'b, 'a, 'f> {
    builder: &'b mut Builder<'a>,
    /// Why the entries are not read on.
    failure: &'f mut Option<TocError>,
}

impl<'de> DeserializeSeed<'de> for Table<'_, '_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Table<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of contents")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { builder, failure } = self;
        let (mut has_entries, mut version) = (false, 1);
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match key.as_ref() {
                "entries" if has_entries => return Err(serde::de::Error::custom("entries twice")),
                "entries" => {
                    map.next_value_seed(Entries { builder, failure })?;
                    has_entries = true;
                }
                "version" => version = map.next_value::<u64>()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if version != 1 {
            *failure = Some(TocError::Unusable("it is of another version"));
        }
        Ok(())
    }
}

struct Entries<'b, 'a, 'f> {
    builder: &'b mut Builder<'a>,
    failure: &'f mut Option<TocError>,
}

impl<'de> DeserializeSeed<'de> for Entries<'_, '_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(entry) = entries.next_element::<Entry>()? {
            if let Err(failure) = self.builder.add(entry) {
                *self.failure = Some(failure);
                return Err(serde::de::Error::custom("refused"));
            }
        }
        Ok(())
    }
}
