//! What clients have the supervisor do to its container: stand still, go on, be checked, read its record again.
//!
//! Only the supervisor writes the state, so only it can say that a container is paused.
//!
//! **Runs in:** S; single-threaded.

use std::os::fd::AsFd;

use nix::errno::Errno;
use oci_spec::runtime::LinuxNamespaceType;
use runtime::init::namespaces::has_private;
use runtime::monitor::attach::{Answer, Question};
use runtime::monitor::relay::ClientId;
use runtime::process::standstill;
use storage::state::container;
use storage::state::status::{Event as StateEvent, State};

use super::supervise::Supervisor;

impl Supervisor {
    /// Does it, and tells the client.
    pub(super) fn answer(&mut self, client: ClientId, question: Question) {
        let answer = match (question, &self.state.state) {
            (Question::CheckHealth, State::Running { .. }) => return self.check_for(client),
            (Question::Reload, _) => self.reload(),
            (Question::Freeze, State::Running { .. }) => done(self.freeze()),
            (Question::Thaw, State::Paused { .. }) => done(self.thaw()),
            _ => Answer::Refused,
        };
        self.relay.answer(client, answer);
    }

    /// Reads the record that `update` has written.
    fn reload(&mut self) -> Answer {
        match container::load(&self.layout, &self.record.id) {
            Ok(Some(record)) => {
                let is_new_check = record.request.healthcheck != self.record.request.healthcheck;
                let endpoints = self.record.request.network.endpoints.clone();
                (self.launch.record, self.record) = (record.clone(), record);
                if let Err(error) = self.rejoin(endpoints.as_deref()) {
                    self.record.request.network.endpoints.clone_from(&endpoints);
                    self.launch.record.request.network.endpoints = endpoints;
                    self.state.network.error = error.to_string();
                    let _ = self.state.write(&self.layout, &self.record.id);
                    return Answer::Failed(Errno::EIO as i32);
                }
                if is_new_check {
                    self.renew_checks();
                }
                Answer::Done(0)
            }
            _ => Answer::Refused,
        }
    }

    fn freeze(&mut self) -> Result<(), Errno> {
        match &self.run.cgroup {
            Some(cgroup) => cgroup.freeze().map_err(|error| errno_of(&error))?,
            // Processes of others are in the same pid namespace.
            None if !has_private(&self.launch.spec, LinuxNamespaceType::Pid) => return Err(Errno::EOPNOTSUPP),
            None => standstill::stop(self.run.init.as_fd()).inspect_err(|_| {
                let _ = standstill::go_on(self.run.init.as_fd());
            })?,
        }
        self.moved(StateEvent::Frozen)
    }

    fn thaw(&mut self) -> Result<(), Errno> {
        match &self.run.cgroup {
            Some(cgroup) => cgroup.thaw().map_err(|error| errno_of(&error))?,
            None => standstill::go_on(self.run.init.as_fd())?,
        }
        self.moved(StateEvent::Thawed)
    }

    fn moved(&mut self, event: StateEvent) -> Result<(), Errno> {
        self.state.on(event).map_err(|_| Errno::EINVAL)?;
        self.state.write(&self.layout, &self.record.id).map_err(|_| Errno::EIO)
    }
}

fn done(result: Result<(), Errno>) -> Answer {
    result.map_or_else(|errno| Answer::Failed(errno as i32), |()| Answer::Done(0))
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32))
}
