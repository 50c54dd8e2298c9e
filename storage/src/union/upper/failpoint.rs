//! Places between the steps of a transaction where a test may kill the process or make the step fail.
//!
//! Outside tests a place is nothing: no call, no branch.

/// Passes a named place.
///
/// # Errors
/// None outside tests.
#[cfg(not(test))]
#[inline(always)]
pub(super) fn pass(_name: &'static str) -> nix::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(super) use armed::{Action, arm, pass, passed};

#[cfg(test)]
mod armed {
    use nix::errno::Errno;
    use std::cell::RefCell;

    /// What happens at a place.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Action {
        /// The process dies as by the kernel's out-of-memory killer.
        Kill,
        /// The step fails.
        Fail(Errno),
    }

    /// What is armed for this thread, and the places it has passed since.
    type State = (Option<(String, Action)>, Vec<&'static str>);

    thread_local! {
        static STATE: RefCell<State> = const { RefCell::new((None, Vec::new())) };
    }

    /// Arms one place for this thread, or none.
    pub(crate) fn arm(place: Option<(&str, Action)>) {
        let place = place.map(|(name, action)| (name.to_owned(), action));
        STATE.with_borrow_mut(|state| *state = (place, Vec::new()));
    }

    /// The places this thread has passed since [`arm`].
    pub(crate) fn passed() -> Vec<&'static str> {
        STATE.with_borrow(|state| state.1.clone())
    }

    pub(crate) fn pass(name: &'static str) -> nix::Result<()> {
        STATE.with_borrow_mut(|(armed, passed)| {
            passed.push(name);
            match armed {
                Some((place, Action::Kill)) if place == name => {
                    let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
                    Err(Errno::EINTR)
                }
                Some((place, Action::Fail(errno))) if place == name => Err(*errno),
                _ => Ok(()),
            }
        })
    }
}
