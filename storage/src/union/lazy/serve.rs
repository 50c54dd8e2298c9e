//! The server of a container whose image still arrives.

use std::io;
use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use nix::errno::Errno;

use super::Places;
use super::answer::Server;
use super::ask;
use super::tree::LazyTree;
use crate::union::server::Log;
use crate::union::session::parking;

/// The newest rights that we ask for; an older kernel gives those it knows.
const NEWEST_ABI: ABI = ABI::V6;

/// Why a tree is not served any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LazyError {
    /// What is to be watched cannot be.
    #[error("watch the layers that arrive: {}", .0.desc().to_lowercase())]
    Watch(#[source] Errno),
    /// The session with the kernel failed, or the image is not one for this.
    #[error("{0}")]
    Session(#[source] io::Error),
}

/// Serves the layers of an image, also those that are still to come, until they are unmounted.
///
/// A byte that is written to `confirm` is given back when everything has come and nothing of it contradicts what was answered.
///
/// Confines the calling thread for good: it reads the store's layers and what is announced of them, asks for what comes, and nothing else.
///
/// # Errors
/// [`LazyError`].
pub fn serve(places: Places, fuse: OwnedFd, confirm: Option<OwnedFd>, log: Option<Log>) -> Result<(), LazyError> {
    let tree = LazyTree::new(places.clone()).map_err(LazyError::Watch)?;
    // A kernel without Landlock is no error, see [`crate::union::confine`].
    let _ = confined(&places).and_then(RulesetCreated::restrict_self);
    parking::serve(&mut Server { tree, log, confirm }, fuse).map_err(LazyError::Session)
}

fn confined(places: &Places) -> Result<RulesetCreated, RulesetError> {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST_ABI))?
        .handle_access(AccessNet::from_all(NEWEST_ABI))?
        .scope(Scope::from_all(NEWEST_ABI))?
        .create()?;
    for dir in [&places.layers, &places.notes] {
        if let Ok(dir) = PathFd::new(dir) {
            rules = rules.add_rule(PathBeneath::new(dir, reading))?;
        }
    }
    // Pipes with questions, and nothing else.
    if let Ok(dir) = PathFd::new(ask::directory(&places.notes)) {
        rules = rules.add_rule(PathBeneath::new(dir, AccessFs::WriteFile))?;
    }
    Ok(rules)
}
