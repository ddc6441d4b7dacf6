//! What was away a moment ago is not asked by every call: a pause, which grows with each failure.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// First and longest pause.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Whether something is asked at all.
#[derive(Debug, Default)]
pub struct Circuit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open_until: Option<(Instant, String)>,
}

impl Circuit {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a call through.
    ///
    /// # Errors
    /// The last failure, while its pause lasts.
    pub fn check(&self) -> Result<(), String> {
        match &self.locked().open_until {
            Some((until, error)) if *until > Instant::now() => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// It failed.
    pub fn failed(&self, error: String) {
        let mut state = self.locked();
        let pause = PAUSE.0.saturating_mul(1 << state.failures.min(6)).min(PAUSE.1);
        state.failures += 1;
        state.open_until = Some((Instant::now() + pause, error));
    }

    /// It worked.
    pub fn worked(&self) {
        *self.locked() = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::Circuit;

    #[test]
    fn a_failure_is_believed_until_something_works() {
        let circuit = Circuit::default();
        circuit.check().expect("nothing has failed");
        circuit.failed("away".to_owned());
        assert_eq!(circuit.check(), Err("away".to_owned()));
        circuit.worked();
        circuit.check().expect("it has worked since");
    }
}
