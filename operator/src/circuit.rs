//! A circuit breaker around one database or Key Vault. Consecutive failures open it: calls then fail at once, except
//! for one trial at a time, and a trial that succeeds closes it.
//!
//! A call that is held back fails with the last failure itself, so that a tenant's status does not change as long as
//! the cause does not.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prometheus::IntGauge;

use crate::backoff::{LONGEST_ASKED, spread};

/// When a circuit opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct CircuitPolicy {
    /// Consecutive failures that open it.
    pub failures: u32,
    /// Wait before the first trial; it doubles with each failed one.
    pub base: Duration,
    /// Longest wait between two trials.
    pub max: Duration,
}

impl CircuitPolicy {
    /// Consecutive failures that open a circuit.
    pub const FAILURES: u32 = 3;
    /// Longest wait between two trials: calls resume soon after the end of an outage.
    pub const LONGEST: Duration = Duration::from_secs(60);

    /// The usual number of failures, with waits that begin with `base` and do not pass `max`.
    #[must_use]
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { failures: Self::FAILURES, base, max: max.min(Self::LONGEST).max(base) }
    }
}

/// One circuit. `E` is the error that held-back calls fail with.
#[derive(Debug)]
pub struct Circuit<E> {
    policy: CircuitPolicy,
    state: Mutex<State<E>>,
    gauge: IntGauge,
}

#[derive(Debug)]
struct State<E> {
    failures: u32,
    open: Option<Open<E>>,
    closings: u64,
}

#[derive(Debug)]
struct Open<E> {
    wait: Duration,
    until: Instant,
    trying: bool,
    problem: E,
}

/// The right to one call, whose outcome must be reported. Dropping it reports nothing.
#[derive(Debug)]
#[must_use]
pub struct Permit<'a, E: Clone> {
    circuit: &'a Circuit<E>,
    trial: bool,
}

impl<E: Clone> Circuit<E> {
    /// A closed circuit. `gauge` is 1 while it is open.
    pub fn new(policy: CircuitPolicy, gauge: IntGauge) -> Self {
        Self { policy, state: Mutex::new(State { failures: 0, open: None, closings: 0 }), gauge }
    }

    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for permission for one call.
    ///
    /// # Errors
    /// The last failure, while calls are held back.
    pub fn enter(&self) -> Result<Permit<'_, E>, E> {
        let mut state = self.lock();
        let Some(open) = &mut state.open else { return Ok(Permit { circuit: self, trial: false }) };
        if open.trying || Instant::now() < open.until {
            return Err(open.problem.clone());
        }
        open.trying = true;
        Ok(Permit { circuit: self, trial: true })
    }

    /// Whether calls are held back.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.lock().open.is_some()
    }

    /// How often it has closed again: a change shows that it was open meanwhile.
    #[must_use]
    pub fn closings(&self) -> u64 {
        self.lock().closings
    }

    /// Whether a trial is due and none is running.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.lock().open.as_ref().is_some_and(|open| !open.trying && Instant::now() >= open.until)
    }
}

impl<E: Clone> Permit<'_, E> {
    /// The backend answered, with success or an error of its own.
    pub fn answered(mut self) {
        let trial = std::mem::take(&mut self.trial);
        let mut state = self.circuit.lock();
        // A call that began before the circuit opened does not show that the outage is over.
        if trial {
            state.open = None;
            state.closings += 1;
            self.circuit.gauge.set(0);
        }
        if state.open.is_none() {
            state.failures = 0;
        }
    }

    /// The backend could not be reached.
    pub fn failed(mut self, problem: E) {
        let trial = std::mem::take(&mut self.trial);
        let policy = self.circuit.policy;
        let mut state = self.circuit.lock();
        state.failures = state.failures.saturating_add(1);
        let wait = match &state.open {
            Some(open) if trial => (open.wait * 2).min(policy.max),
            None if state.failures >= policy.failures => policy.base,
            _ => return,
        };
        let until = Instant::now() + spread(wait);
        state.open = Some(Open { wait, until, trying: false, problem });
        self.circuit.gauge.set(1);
    }

    /// The backend asked for a wait: no trial before that.
    pub fn throttled(mut self, wait: Duration, problem: E) {
        self.trial = false;
        let wait = wait.min(LONGEST_ASKED);
        let until = Instant::now() + wait;
        let mut state = self.circuit.lock();
        if state.open.as_ref().is_some_and(|open| open.until > until) {
            return;
        }
        state.open = Some(Open { wait: self.circuit.policy.base, until, trying: false, problem });
        self.circuit.gauge.set(1);
    }
}

impl<E: Clone> Drop for Permit<'_, E> {
    fn drop(&mut self) {
        if self.trial
            && let Some(open) = &mut self.circuit.lock().open
        {
            open.trying = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circuit(base: Duration) -> Circuit<&'static str> {
        let gauge = IntGauge::new("circuit", "test").unwrap();
        Circuit::new(CircuitPolicy { failures: 3, base, max: base * 4 }, gauge)
    }

    fn fail(circuit: &Circuit<&'static str>, times: usize) {
        for _ in 0..times {
            circuit.enter().unwrap().failed("away");
        }
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let circuit = circuit(Duration::from_secs(60));
        fail(&circuit, 2);
        circuit.enter().unwrap().answered();
        fail(&circuit, 2);
        assert!(!circuit.is_open());
        fail(&circuit, 1);
        assert!(circuit.is_open() && !circuit.is_due());
        assert_eq!(circuit.enter().unwrap_err(), "away");
        assert_eq!(circuit.gauge.get(), 1);
    }

    #[test]
    fn one_call_tries_and_its_outcome_decides() {
        let circuit = circuit(Duration::ZERO);
        fail(&circuit, 3);
        assert!(circuit.is_due());
        let trial = circuit.enter().unwrap();
        assert!(circuit.enter().is_err(), "one at a time");
        drop(trial);
        let trial = circuit.enter().expect("a call that was dropped is no outcome");
        trial.failed("still away");
        assert!(circuit.is_open());
        circuit.enter().unwrap().answered();
        assert!(!circuit.is_open());
        assert_eq!((circuit.closings(), circuit.gauge.get()), (1, 0));
        fail(&circuit, 2);
        assert!(!circuit.is_open(), "counting starts over");
    }

    #[test]
    fn the_waits_grow_to_the_longest() {
        let circuit = circuit(Duration::from_secs(1));
        fail(&circuit, 3);
        let wait = || circuit.lock().open.as_ref().map(|open| open.wait.as_secs());
        for expected in [1, 2, 4, 4] {
            assert_eq!(wait(), Some(expected));
            circuit.lock().open.as_mut().unwrap().until = Instant::now();
            circuit.enter().unwrap().failed("away");
        }
    }

    #[test]
    fn a_call_that_began_before_closes_nothing() {
        let circuit = circuit(Duration::from_secs(60));
        let early = circuit.enter().unwrap();
        fail(&circuit, 3);
        early.answered();
        assert!(circuit.is_open());
    }

    #[test]
    fn a_wait_that_was_asked_for_holds_at_once() {
        let circuit = circuit(Duration::ZERO);
        circuit.enter().unwrap().throttled(Duration::from_secs(9), "slow down");
        assert_eq!(circuit.enter().unwrap_err(), "slow down");
        assert!(!circuit.is_due());
    }
}
