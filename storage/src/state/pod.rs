//! Pods: `pods/<id>.json`, a name for containers that share namespaces.
//!
//! A pod's namespaces are held by a container of its own (`<id>-infra`): a supervisor, as every container has one, and an
//! init that executes nothing and waits. It has the pod's network and ports; the others join it. It needs no image.
//!
//! Writer: who creates the pod, under `pods.lock`; readers: everybody, without it. Published by rename. Version: 1.
//! Durability: fdatasync. A pod whose infra container is gone is garbage.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::container::{self, ContainerError, Record};
use super::layout::{ContainerId, Layout, LayoutError, create_dir, is_lower_hex};
use super::records::{Records, RecordsError};
use super::request::{Device, Resources, RestartPolicy, Security, UserNamespace};

/// The newest format this coracle reads, and the one it writes.
pub const VERSION: u32 = 1;

/// What goes wrong with a pod.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodError {
    /// There is none.
    #[error("no pod with name or ID {0} found: no such pod")]
    NotFound(String),
    /// Its name is taken.
    #[error("adding pod to state: name \"{0}\" is in use: pod already exists")]
    Exists(String),
    /// Its file cannot be used.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// Its containers cannot be listed.
    #[error(transparent)]
    Container(#[from] ContainerError),
}

/// What happens when the last container of a pod ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitPolicy {
    /// Nothing.
    #[default]
    Continue,
    /// The pod stops.
    Stop,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// The format.
    pub version: u32,
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// The container that holds its namespaces; absent without any to share.
    #[serde(default)]
    pub infra: Option<ContainerId>,
    /// The namespaces that are shared, of `ipc`, `net`, `pid`, `uts`.
    #[serde(default)]
    pub share: Vec<String>,
    /// The host name of all.
    #[serde(default)]
    pub hostname: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The command line that made it.
    #[serde(default)]
    pub create_command: Vec<String>,
    /// What happens when the last container ends.
    #[serde(default)]
    pub exit_policy: ExitPolicy,
    /// What happens to its containers when they end, unless they have a policy of their own.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// The user namespace of its containers.
    #[serde(default)]
    pub userns: UserNamespace,
    /// What its containers get of it.
    #[serde(default)]
    pub members: OfMembers,
}

/// What the containers of a pod get of it where they have nothing of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OfMembers {
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// How they are confined.
    pub security: Security,
    /// CPUs they may run on.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes they may use.
    pub cpuset_mems: Option<String>,
    /// Where their cgroups are made.
    pub cgroup_parent: Option<String>,
    /// What they may use together.
    pub together: Resources,
    /// The PID namespace that they share is the host's.
    pub host_pid: bool,
    /// The UTS namespace that they share is the host's.
    pub host_uts: bool,
}

fn records(layout: &Layout) -> Records {
    Records::of(layout, "pods", VERSION)
}

/// The empty directory that serves infra containers as root.
///
/// # Errors
/// [`LayoutError`].
pub fn root(layout: &Layout) -> Result<PathBuf, LayoutError> {
    let path = records(layout).directory()?.join("root");
    create_dir(&path)?;
    Ok(path)
}

/// Publishes a pod. Pods and containers have their names together.
///
/// # Errors
/// [`PodError::Exists`].
pub fn create(layout: &Layout, pod: &Pod) -> Result<(), PodError> {
    let records = records(layout);
    let _lock = records.lock()?;
    let taken = list(layout)?.iter().any(|other| other.name == pod.name);
    if taken || fs::symlink_metadata(layout.name(&pod.name)).is_ok() {
        return Err(PodError::Exists(pod.name.clone()));
    }
    Ok(records.write(pod.id.as_str(), pod)?)
}

/// Every pod, oldest first.
///
/// # Errors
/// [`PodError`].
pub fn list(layout: &Layout) -> Result<Vec<Pod>, PodError> {
    let mut pods: Vec<Pod> = records(layout).list(|name| ContainerId::parse(name).is_ok())?;
    pods.sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
    Ok(pods)
}

/// Reads one pod by its whole id.
///
/// # Errors
/// [`PodError::Records`].
pub fn load(layout: &Layout, id: &ContainerId) -> Result<Option<Pod>, PodError> {
    Ok(records(layout).read(id.as_str())?)
}

/// Finds a pod by name, id, or the beginning of an id that fits no other.
///
/// # Errors
/// [`PodError::NotFound`].
pub fn find(layout: &Layout, text: &str) -> Result<Pod, PodError> {
    let mut pods = list(layout)?;
    if let Some(place) = pods.iter().position(|pod| pod.name == text || pod.id.as_str() == text) {
        return Ok(pods.swap_remove(place));
    }
    let mut fitting = pods.into_iter().filter(|pod| is_lower_hex(text) && pod.id.as_str().starts_with(text));
    match (fitting.next(), fitting.next()) {
        (Some(pod), None) => Ok(pod),
        _ => Err(PodError::NotFound(text.to_owned())),
    }
}

/// Forgets a pod; its containers are the caller's business.
///
/// # Errors
/// [`PodError::Records`].
pub fn remove(layout: &Layout, id: &ContainerId) -> Result<(), PodError> {
    Ok(records(layout).remove(id.as_str())?)
}

/// The containers of a pod, the one that holds its namespaces first, the others in the order of their creation.
///
/// # Errors
/// [`PodError::Container`].
pub fn members(layout: &Layout, pod: &Pod) -> Result<Vec<Record>, PodError> {
    let (mut records, _) = container::list(layout)?;
    records.retain(|record| record.request.pod.as_deref() == Some(pod.id.as_str()));
    records.sort_by_key(|record| (pod.infra.as_ref() != Some(&record.id), record.created));
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_found_by_name_and_id_and_have_one_name_each() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path().join("data"), root.path().join("run"));
        let pod = |name: &str| Pod {
            version: VERSION,
            id: ContainerId::random(),
            name: name.to_owned(),
            created: Timestamp::now(),
            infra: None,
            share: Vec::new(),
            hostname: String::new(),
            labels: BTreeMap::new(),
            create_command: Vec::new(),
            exit_policy: ExitPolicy::Continue,
            restart: RestartPolicy::No,
            userns: UserNamespace::Host,
            members: OfMembers::default(),
        };
        assert!(matches!(find(&layout, "p"), Err(PodError::NotFound(_))));
        let one = pod("p");
        create(&layout, &one).unwrap();
        create(&layout, &pod("q")).unwrap();
        assert!(matches!(create(&layout, &pod("p")), Err(PodError::Exists(_))));
        assert_eq!(find(&layout, "p").unwrap(), one);
        assert_eq!(find(&layout, &one.id.as_str()[..12]).unwrap(), one);
        assert_eq!(list(&layout).unwrap().len(), 2);
        remove(&layout, &one.id).unwrap();
        remove(&layout, &one.id).unwrap();
        assert!(find(&layout, "p").is_err());
    }
}
