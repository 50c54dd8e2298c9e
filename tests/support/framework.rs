//! A test is a function, a name and what it needs of the machine.
//!
//! Every file of tests lists its functions in a `TESTS` array; one that is forgotten there is dead code, which the
//! compiler reports.

use std::time::Duration;

use super::home::Home;
use super::needs::Need;

/// One test: a function that panics if the behaviour in its name does not hold.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    name: &'static str,
    pub(crate) body: fn(&Home),
    pub(crate) needs: &'static [Need],
    pub(crate) limit: Duration,
    pub(crate) alone: bool,
    pub(crate) image: bool,
}

impl Test {
    /// A test that runs containers, in a home that has the image `busybox`.
    pub(crate) const fn new(name: &'static str, body: fn(&Home)) -> Self {
        Self { name, body, needs: &[Need::Containers], limit: Duration::from_secs(60), alone: false, image: true }
    }

    /// Needs all of these besides what every container needs.
    pub(crate) const fn needs(self, needs: &'static [Need]) -> Self {
        Self { needs, ..self }
    }

    /// May take up to this long.
    pub(crate) const fn limit_secs(self, seconds: u64) -> Self {
        Self { limit: Duration::from_secs(seconds), ..self }
    }

    /// Runs while no other test does: it measures, or it takes the whole machine.
    pub(crate) const fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    /// Starts with an empty store.
    pub(crate) const fn without_image(self) -> Self {
        Self { image: false, ..self }
    }

    /// `cli::run::exit_code_is_that_of_the_container`
    pub(crate) fn name(&self) -> &'static str {
        self.name.split_once("::").map_or(self.name, |(_crate, rest)| rest)
    }

    /// What the machine must have, the needs of every container included.
    pub(crate) fn all_needs(&self) -> impl Iterator<Item = Need> + use<> {
        let own = self.needs.iter().copied();
        own.chain([Need::Containers]).filter({
            let mut seen = Vec::new();
            move |need| {
                !seen.contains(need) && {
                    seen.push(*need);
                    true
                }
            }
        })
    }
}

/// Makes a [`Test`] of a function, named by its path.
macro_rules! test {
    ($function:ident) => {
        $crate::support::framework::Test::new(concat!(module_path!(), "::", stringify!($function)), $function)
    };
}
pub(crate) use test;
