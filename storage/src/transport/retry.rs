//! Asking again: what failed in passing may work in a moment.

use std::time::{Duration, SystemTime};

use super::TransportError;
use super::registry::RegistryError;
use super::stop::Stop;
use crate::progress::{Event, Progress};

/// The longest that a server's wish to be left alone is obeyed.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(60);

/// How often, and after which waits.
#[derive(Clone, Copy)]
pub(super) struct Retry<'a> {
    /// How many failures in a row are forgiven.
    pub(super) limit: u32,
    /// The first wait; doubles each time.
    pub(super) first: Duration,
    /// `--retry-delay`: every wait.
    pub(super) given: Option<Duration>,
    /// Ends a wait.
    pub(super) stop: &'a Stop,
    pub(super) progress: &'a dyn Progress,
}

impl Retry<'_> {
    /// Repeats a request while its failures are transient.
    pub(super) fn retrying<T>(
        &self,
        mut request: impl FnMut() -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        let mut failures = 0;
        loop {
            match request() {
                Ok(value) => return Ok(value),
                Err(error) => {
                    failures += 1;
                    self.wait(error, failures)?;
                }
            }
        }
    }

    /// Waits after the `failures`th failure in a row, or gives the error back if that was the last.
    pub(super) fn wait(&self, error: TransportError, failures: u32) -> Result<(), TransportError> {
        let limit = self.limit;
        if !error.is_transient() || failures > limit || self.stop.is_set() {
            return Err(error);
        }
        let delay = match (&error, self.given) {
            (TransportError::Registry(RegistryError::RateLimited { retry_after: Some(wish), .. }), _) => {
                (*wish).min(RETRY_AFTER_LIMIT)
            }
            (_, Some(given)) => given,
            _ => {
                // Clients that failed together should not come back together.
                let nanos =
                    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
                let delay = self.first * (1 << (failures - 1).min(6));
                delay.mul_f64(0.75 + f64::from(nanos % 1000) / 2000.0)
            }
        };
        let text = format!("{error}: trying again in {:.1} s ({failures}/{limit})", delay.as_secs_f64());
        self.progress.event(Event::Message(&text));
        // A failure elsewhere ends the wait.
        if self.stop.wait(delay) { Err(TransportError::Stopped) } else { Ok(()) }
    }
}
