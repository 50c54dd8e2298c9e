//! The supervisor's lines in the journal of events.
//!
//! **Runs in:** S; single-threaded. Two writes in the life of most containers: when it runs, and when it has ended.

use runtime::process::Exit;
use storage::state::events::{self, Event};
use storage::state::status::HealthStatus;

use super::supervise::Supervisor;

impl Supervisor {
    /// The container runs: whoever waits for it hears of that first.
    pub(super) fn note_started(&self, is_attached: bool) {
        let events = [
            self.is_new.then(|| Event { time: self.record.created, ..Event::container(&self.record, "create") }),
            Some(Event::container(&self.record, "init")),
            Some(Event::container(&self.record, "start")),
            is_attached.then(|| Event::container(&self.record, "attach")),
        ];
        events::note(&self.layout, &events.into_iter().flatten().collect::<Vec<_>>());
    }

    /// The container is ready and waits.
    pub(super) fn note_held(&self) {
        events::note(&self.layout, &[Event::container(&self.record, "init")]);
    }

    /// One that was ready has begun.
    pub(super) fn note_begun(&self) {
        events::note(&self.layout, &[Event::container(&self.record, "start")]);
    }

    /// A run has ended that another follows.
    pub(super) fn note_resting(&self, exit: Exit) {
        let died = Event::container(&self.record, "died").with_exit_code(i32::from(exit.code()));
        events::note(&self.layout, &[died]);
    }

    /// Its policy has started it again.
    pub(super) fn note_restarted(&self) {
        let actions = ["restart", "init", "start"];
        events::note(&self.layout, &actions.map(|action| Event::container(&self.record, action)));
    }

    /// Reads whether the kernel has killed processes of it for want of memory, and tells of it.
    pub(super) fn notice_oom(&mut self) {
        use std::io::{Read, Seek};
        let Some(file) = &mut self.run.memory_events else { return };
        let mut text = String::new();
        if file.rewind().and_then(|()| file.read_to_string(&mut text)).is_err() {
            self.run.memory_events = None;
            return;
        }
        let kills = runtime::cgroup::oom_kills(&text).unwrap_or(0);
        if kills > self.run.oom_kills {
            self.run.oom_kills = kills;
            events::note(&self.layout, &[Event::container(&self.record, "oom")]);
        }
    }

    /// Its health is another.
    pub(super) fn note_health(&self, status: HealthStatus, log: Option<&str>) {
        let mut event = Event::container(&self.record, "health_status");
        event.attributes.insert("health_status".to_owned(), status.as_str().to_owned());
        event.attributes.extend(log.map(|log| ("health_log".to_owned(), log.to_owned())));
        events::note(&self.layout, &[event]);
    }

    /// The container has ended; with `--rm` it is gone, too.
    pub(super) fn note_ended(&self, exit: Exit) {
        let code = i32::from(exit.code());
        let died = Event::container(&self.record, "died").with_exit_code(code);
        let last = match self.record.request.remove {
            true => Event::container(&self.record, "remove").with_exit_code(code),
            false => Event::container(&self.record, "cleanup"),
        };
        events::note(&self.layout, &[died, last]);
    }
}
