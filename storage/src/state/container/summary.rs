//! A container in few words: what plain listings show of a [`Record`], kept in the listing from one call to the next.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Record;
use crate::state::layout::ContainerId;
use crate::state::request::{ExposedPorts, PublishedPort};

/// What a plain listing shows of a container, and what it has to know of it.
///
/// Small, since there may be thousands: a whole [`Record`] has over a hundred fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Who it is.
    pub id: ContainerId,
    /// What it is called.
    pub name: String,
    /// When it was created.
    #[serde(with = "nanoseconds")]
    pub created: Timestamp,
    /// What it was made from, [`Record::image_name`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Its command without the entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// With the entrypoint, if that makes a difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    whole_args: Option<Vec<String>>,
    /// It vanishes when it ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remove: bool,
    /// [`Record::started_at_once`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub started_at_once: bool,
    /// The id of its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The name of its pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod_name: String,
    /// The name or id of the container whose network it uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_of: Option<String>,
    /// The ports published for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<PublishedPort>,
    /// The ports it listens on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed: Vec<ExposedPorts>,
}

impl Summary {
    /// What is to be known of a record.
    pub fn of(record: &Record) -> Self {
        let request = &record.request;
        Self {
            id: record.id.clone(),
            name: record.name.clone(),
            created: record.created,
            image: record.image_name().to_owned(),
            cmd: request.cmd.clone(),
            whole_args: (request.args != request.cmd).then(|| request.args.clone()),
            remove: request.remove,
            started_at_once: record.started_at_once,
            pod: request.pod.clone(),
            pod_name: request.pod_name.clone(),
            network_of: request.network.of_container().map(str::to_owned),
            published: request.network.published.clone(),
            exposed: request.network.exposed.clone(),
        }
    }

    /// Its argument vector: entrypoint, then command.
    pub fn args(&self) -> &[String] {
        self.whole_args.as_ref().unwrap_or(&self.cmd)
    }
}

/// A moment as nanoseconds since 1970, which is read in a tenth of the time that RFC 3339 takes.
mod nanoseconds {
    use jiff::Timestamp;
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(moment: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        i64::try_from(moment.as_nanosecond()).map_err(S::Error::custom)?.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        Timestamp::from_nanosecond(i64::deserialize(deserializer)?.into()).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{create, layout};
    use super::*;

    #[test]
    fn a_summary_has_what_listings_show_and_comes_back_as_it_was() {
        let (_root, layout) = layout();
        let mut record = create(&layout, "10", "c");
        record.request.cmd = vec!["1".to_owned()];
        record.request.args = vec!["sleep".to_owned(), "1".to_owned()];
        record.request.pod = Some("p".to_owned());
        record.request.remove = true;
        record.request.network.mode = "container:other".to_owned();
        let summary = Summary::of(&record);
        assert_eq!((summary.args(), &summary.cmd[..]), (&record.request.args[..], &record.request.cmd[..]));
        assert_eq!(summary.network_of.as_deref(), Some("other"));
        assert_eq!((&summary.id, &summary.name, summary.created), (&record.id, &record.name, record.created));
        assert_eq!((summary.pod.as_deref(), summary.remove), (Some("p"), true));
        let json = serde_json::to_vec(&summary).unwrap();
        assert_eq!(serde_json::from_slice::<Summary>(&json).unwrap(), summary);
    }
}
