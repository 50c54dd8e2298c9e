//! The cgroup that the containers of a pod with limits have their own in.
//!
//! ```text
//! app-coracle_pod_ID.slice       the limits, as properties: the service manager makes it with the first container's scope
//!   coracle-ID1.scope/…
//!   coracle-ID2.scope/…          with the last one it goes
//! ```
//! Where there is no manager it is a directory like the containers'. A pod without limits has none.
//!
//! **Runs in:** the CLI, on the host.

use runtime::cgroup::resources::{self, Setting};
use storage::state::request::Cgroup;

use crate::error::CommandError;
use crate::supervisor::resources::of;

/// Limits of a pod.
#[derive(Debug)]
pub(super) struct Together {
    /// Its cgroup's name where it is a directory.
    pub(super) name: String,
    /// The limits.
    pub(super) settings: Vec<Setting>,
}

/// The beginning of the name of a pod's cgroup.
const NAME: &str = "coracle_pod_";

impl Together {
    /// Those of the pod that a container belongs to; `None` without any.
    pub(super) fn of(asked: &Cgroup) -> Result<Option<Together>, CommandError> {
        let Some(pod) = &asked.pod else { return Ok(None) };
        let settings = of(&pod.resources)?.as_ref().map(resources::settings).transpose()?.unwrap_or_default();
        let is_limited = settings.iter().any(|setting| !resources::is_unlimited(setting));
        Ok(is_limited.then(|| Together { name: format!("{NAME}{}", pod.id), settings }))
    }

    /// Its slice, in another one or where the manager puts what belongs to programs.
    pub(super) fn slice(&self, parent: Option<&str>) -> String {
        let within = parent.and_then(|parent| parent.strip_suffix(".slice")).filter(|parent| *parent != "-");
        format!("{}-{}.slice", within.unwrap_or("app"), self.name)
    }

    /// Takes out the limits that cannot be kept.
    pub(super) fn without(&mut self, is_kept: impl Fn(&Setting) -> bool) -> Vec<Setting> {
        self.settings.extract_if(.., |one| !is_kept(one)).collect()
    }
}

/// Whether this is the name of a pod's cgroup.
pub(super) fn is_pods(name: &str) -> bool {
    name.contains(NAME)
}

#[cfg(test)]
mod tests {
    use storage::state::request::{OfPod, Resources};

    use super::*;

    fn pod(memory_bytes: Option<u64>, memory_swap_bytes: Option<i64>) -> Option<Together> {
        let resources = Resources { memory_bytes, memory_swap_bytes, ..Resources::default() };
        let pod = Some(Box::new(OfPod { id: "1f".to_owned(), resources }));
        Together::of(&Cgroup { pod, ..Cgroup::default() }).unwrap()
    }

    #[test]
    fn a_pod_with_limits_has_a_slice_in_that_of_programs_or_in_the_one_it_is_given() {
        let pod = pod(Some(64 << 20), None).unwrap();
        assert_eq!(pod.slice(None), "app-coracle_pod_1f.slice");
        assert_eq!(pod.slice(Some("web.slice")), "web-coracle_pod_1f.slice");
        assert!(is_pods(&pod.name) && is_pods(&pod.slice(None)));
        assert_eq!(pod.settings[0], ("memory.max".to_owned(), (64 << 20).to_string()));
    }

    #[test]
    fn one_without_limits_has_none() {
        assert!(pod(None, None).is_none());
        assert!(pod(None, Some(-1)).is_none());
    }
}
