//! Turns: whose statements ran long lately has them run one after the other.
//!
//! A tenant's connections are few, and still more than a small server has processors: statements that never end, on each of
//! them, leave none to its neighbours. Which statements run long is known when they have run, so it is remembered of
//! principals: each has an allowance of seconds, which long statements use up and time gives back. Who has used it up
//! shares one of the tenant's connections with the like, and has no parallel workers; everybody else keeps theirs, the
//! tenant's other callers, too.
//!
//! Time in which several statements of a principal ran counts once. A server that stands still for two seconds holds all
//! of them, and counted one by one they would use up the allowance of whoever had four.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lease::locked;
use crate::identity::PrincipalId;

/// A statement that ran no longer costs nothing.
const LONG: Duration = Duration::from_secs(1);
/// Seconds of long statements that a principal may have run before it waits for turns.
const ALLOWANCE: f64 = 10.0;
/// Most seconds that are remembered, so that turns end: ten minutes after the last long statement.
const MOST: f64 = ALLOWANCE + 600.0 * GIVEN_BACK;
/// What a second gives back. One long statement after the other costs more than that, and is not hindered by turns, for
/// it never runs beside another.
const GIVEN_BACK: f64 = 1.0 / 8.0;

/// One tenant's principals that ran long statements lately, and their turns.
pub struct Turns {
    places: Arc<Semaphore>,
    used: Mutex<HashMap<PrincipalId, Used>>,
}

/// Of an allowance, at a time.
#[derive(Clone, Copy)]
struct Used {
    seconds: f64,
    at: Instant,
    /// Time until then has been counted.
    counted: Instant,
}

impl Used {
    /// What is still used of it.
    fn at(self, now: Instant) -> f64 {
        let given_back = now.saturating_duration_since(self.at).as_secs_f64() * GIVEN_BACK;
        (self.seconds - given_back).max(0.0)
    }
}

impl Turns {
    /// `places`: so many at a time.
    pub fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), used: Mutex::default() }
    }

    /// Whether this principal waits for turns.
    pub fn takes(&self, principal: PrincipalId, now: Instant) -> bool {
        locked(&self.used).get(&principal).is_some_and(|used| used.at(now) >= ALLOWANCE)
    }

    /// Waits for a turn, without end.
    pub async fn next(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().acquire_owned().await.ok()
    }

    /// Takes what a statement that began then used off the allowance. Who has used nothing is forgotten, so the memory is
    /// bounded by the connections that long statements can have had in ten minutes.
    pub fn charge(&self, principal: PrincipalId, began: Instant, now: Instant) {
        if now.saturating_duration_since(began) <= LONG {
            return;
        }
        let mut used = locked(&self.used);
        used.retain(|_, used| used.at(now) > 0.0);
        let (before, counted) = used.get(&principal).map_or((0.0, began), |used| (used.at(now), used.counted));
        let seconds = before + now.saturating_duration_since(began.max(counted)).as_secs_f64();
        used.insert(principal, Used { seconds: seconds.min(MOST), at: now, counted: now });
    }

    /// Whether somebody's allowance is not whole: there is something to remember.
    pub fn remember(&self, now: Instant) -> bool {
        locked(&self.used).values().any(|used| used.at(now) > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const fn who(number: u128) -> PrincipalId {
        (Uuid::from_u128(1), Uuid::from_u128(number))
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn long_statements_use_an_allowance_up_and_time_gives_it_back() {
        let (turns, start) = (Turns::new(1), Instant::now());
        let (half, end) = (start + seconds(6), start + seconds(12));
        turns.charge(who(1), start, half);
        assert!(!turns.takes(who(1), half), "within the allowance");
        turns.charge(who(1), half, end);
        assert!(turns.takes(who(1), end), "6 - 6/8 + 6");
        assert!(!turns.takes(who(2), end), "another principal's own");
        assert!(turns.takes(who(1), end + seconds(9)), "11.25 - 9/8");
        assert!(!turns.takes(who(1), end + seconds(11)), "11.25 - 11/8");
        assert!(turns.remember(end + seconds(89)));
        assert!(!turns.remember(end + seconds(91)), "all of it");
    }

    /// Four statements of one principal, on a server that stands still three times for two seconds and a half.
    #[test]
    fn time_in_which_several_statements_ran_counts_once() {
        let (turns, mut now) = (Turns::new(1), Instant::now());
        for _ in 0..3 {
            let began = now;
            now += Duration::from_millis(2_500);
            (0..4).for_each(|_| turns.charge(who(1), began, now));
            assert!(!turns.takes(who(1), now), "it has done nothing");
        }
        turns.charge(who(1), now, now + seconds(5));
        assert!(turns.takes(who(1), now + seconds(5)), "7.5 and 5, less what was given back");
    }

    #[test]
    fn short_statements_cost_nothing_however_many() {
        let (turns, start) = (Turns::new(1), Instant::now());
        (0..10_000).for_each(|_| turns.charge(who(1), start, start + LONG));
        assert!(!turns.takes(who(1), start));
        assert!(!turns.remember(start));
    }

    #[test]
    fn turns_end_and_the_memory_is_bounded() {
        let (turns, start) = (Turns::new(1), Instant::now());
        let end = start + seconds(30 * 100);
        (0..100).for_each(|n| turns.charge(who(1), start + seconds(30 * n), start + seconds(30 * (n + 1))));
        assert!(turns.takes(who(1), end + seconds(599)));
        assert!(!turns.takes(who(1), end + seconds(601)));
        (0..100).for_each(|number| turns.charge(who(number), end, end + seconds(2)));
        turns.charge(who(100), end + seconds(17), end + seconds(19));
        assert_eq!(locked(&turns.used).len(), 2, "the first, which used much, and the last");
    }

    #[tokio::test]
    async fn so_many_have_a_turn_as_there_are_places() {
        let turns = Turns::new(1);
        let first = turns.next().await;
        assert!(tokio::time::timeout(Duration::from_millis(50), turns.next()).await.is_err());
        drop(first);
        assert!(tokio::time::timeout(Duration::from_secs(5), turns.next()).await.is_ok());
    }
}
