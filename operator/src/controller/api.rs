//! Whether the Kubernetes API lets this process in. Asked from time to time, because an established watch and a replica
//! on standby send no requests of their own.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
    core::ApiResource,
};
use storefence_tenancy::RetailTenant;

use crate::kubernetes::in_time;

/// How many call deadlines may pass without a good answer before the process is not ready.
const MISSED_DEADLINES: u32 = 3;

/// What is known of the API.
pub struct ApiAccess {
    deadline: Duration,
    state: Mutex<State>,
}

struct State {
    good: Instant,
    problem: Option<String>,
}

impl ApiAccess {
    /// `deadline` is the timeout of one call. The start counts as a good answer.
    pub fn new(deadline: Duration) -> Self {
        Self { deadline, state: Mutex::new(State { good: Instant::now(), problem: None }) }
    }

    /// The problem, once it has lasted too long.
    pub fn missing(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let since = state.good.elapsed();
        let problem = state.problem.as_ref().filter(|_| since > self.deadline * MISSED_DEADLINES)?;
        Some(format!("the Kubernetes API has refused or not answered for {} s: {problem}", since.as_secs()))
    }

    fn record(&self, outcome: Result<(), String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => *state = State { good: Instant::now(), problem: None },
            Err(problem) => state.problem = Some(problem),
        }
    }

    /// Lists one RetailTenant of all namespaces, again and again: that needs the same permission as the watch.
    pub async fn ask(&self, client: Client) {
        let api = Api::<DynamicObject>::all_with(client, &ApiResource::erase::<RetailTenant>(&()));
        let one = ListParams::default().limit(1);
        loop {
            let outcome = in_time(self.deadline, api.list_metadata(&one)).await;
            self.record(outcome.map(drop).map_err(|error| error.to_string()));
            tokio::time::sleep(self.deadline).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_counts_once_it_lasts() {
        let access = ApiAccess::new(Duration::from_millis(20));
        access.record(Err("401".to_owned()));
        assert_eq!(access.missing(), None, "one failure may pass");
        std::thread::sleep(Duration::from_millis(100));
        assert!(access.missing().is_some_and(|missing| missing.contains("401")));
        access.record(Ok(()));
        assert_eq!(access.missing(), None);
    }
}
