//! What goes on beside the next step: the ends of the containers of earlier ones, and the leader of the network between
//! them.

use std::cell::{OnceCell, RefCell};
use std::os::fd::{AsFd, OwnedFd};

use net::leader::Connection;
use runtime::process::wait;

use super::state::Build;
use crate::supervisor::leader;

/// Supervisors whose containers have ended. At its own end it waits for them.
#[derive(Debug, Default)]
pub(crate) struct Endings {
    supervisors: RefCell<Vec<OwnedFd>>,
    /// The leader ends with the last that is connected to it, and the next step would have to start another.
    leader: OnceCell<Option<Connection>>,
}

impl Endings {
    /// One more, that needs nobody.
    pub(super) fn add(&self, supervisor: OwnedFd) {
        let mut all = self.supervisors.borrow_mut();
        all.retain(|one| wait(one.as_fd(), false).is_ok_and(|ended| ended.is_none()));
        all.push(supervisor);
    }

    /// Keeps the leader that a step has needed for the next one.
    pub(super) fn keep_leader(&self, build: &Build<'_>) {
        self.leader.get_or_init(|| {
            let found = leader::connect(&build.context.layout, &build.space.mapping, None);
            found.ok().map(|found| found.connection)
        });
    }
}

impl Drop for Endings {
    fn drop(&mut self) {
        for supervisor in self.supervisors.get_mut().drain(..) {
            let _ = wait(supervisor.as_fd(), true);
        }
    }
}
