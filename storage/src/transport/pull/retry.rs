//! Asking again: what failed in passing may work in a moment.

use std::time::{Duration, SystemTime};

use super::super::TransportError;
use super::super::registry::RegistryError;
use super::Pull;
use crate::progress::Event;

/// The longest that a server's wish to be left alone is obeyed.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(60);

impl Pull<'_> {
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
                    self.wait_before_retry(error, failures)?;
                }
            }
        }
    }

    /// Waits after the `failures`th failure in a row, or gives the error back if that was the last.
    pub(super) fn wait_before_retry(&self, error: TransportError, failures: u32) -> Result<(), TransportError> {
        let limit = self.source.retries();
        if !error.is_transient() || failures > limit || self.stop.is_set() {
            return Err(error);
        }
        let delay = match &error {
            TransportError::Registry(RegistryError::RateLimited { retry_after: Some(wish), .. }) => {
                (*wish).min(RETRY_AFTER_LIMIT)
            }
            _ => {
                // Clients that failed together should not come back together.
                let nanos =
                    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
                let delay = self.options.retry_delay * (1 << (failures - 1).min(6));
                delay.mul_f64(0.75 + f64::from(nanos % 1000) / 2000.0)
            }
        };
        let text = format!("{error}: trying again in {:.1} s ({failures}/{limit})", delay.as_secs_f64());
        self.progress.event(Event::Message(&text));
        // A failure elsewhere ends the wait.
        if self.stop.wait(delay) { Err(TransportError::Stopped) } else { Ok(()) }
    }
}
