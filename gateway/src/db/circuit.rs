//! A circuit breaker: after a failure, calls fail at once for a pause that grows with each failure.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// First and longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// The state of a circuit: closed, or open until the pause has passed.
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

    /// Lets a call through while the circuit is closed.
    ///
    /// # Errors
    /// The last failure, while the circuit is open.
    pub fn check(&self) -> Result<(), String> {
        match &self.locked().open_until {
            Some((until, error)) if *until > Instant::now() => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Records a failure, and opens the circuit.
    pub fn failed(&self, error: String) {
        let mut state = self.locked();
        let pause = PAUSE.0.saturating_mul(1 << state.failures.min(6)).min(PAUSE.1);
        state.failures += 1;
        state.open_until = Some((Instant::now() + pause, error));
    }

    /// Records a success, and closes the circuit.
    pub fn worked(&self) {
        *self.locked() = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::Circuit;

    #[test]
    fn a_failure_opens_the_circuit_and_a_success_closes_it() {
        let circuit = Circuit::default();
        circuit.check().expect("nothing has failed");
        circuit.failed("away".to_owned());
        assert_eq!(circuit.check(), Err("away".to_owned()));
        circuit.worked();
        circuit.check().expect("it has worked since");
    }
}
