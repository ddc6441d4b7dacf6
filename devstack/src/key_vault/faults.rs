//! Faults that requests run into.

use std::time::Duration;

use super::Operation;

/// What happens to a matching request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Answers with this status and error code, and does nothing.
    Status(u16, String),
    /// Answers 429 with `Retry-After` in whole seconds, and does nothing.
    Throttle(u64),
    /// Never answers, and does nothing.
    Hang,
    /// Goes on after a while.
    Slow(Duration),
    /// Does what was asked, then breaks the connection in the middle of the answer.
    HalfResponse,
}

/// Which requests a fault concerns, and how many of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultRule {
    operation: Option<Operation>,
    secret: Option<String>,
    skip: u64,
    times: u64,
    effect: Effect,
}

impl FaultRule {
    /// The next request, whatever it is.
    pub fn new(effect: Effect) -> Self {
        Self { operation: None, secret: None, skip: 0, times: 1, effect }
    }

    /// Only requests for this operation.
    #[must_use]
    pub fn on(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only requests for this secret.
    #[must_use]
    pub fn secret(mut self, name: &str) -> Self {
        self.secret = Some(name.to_owned());
        self
    }

    /// Lets the first `count` matching requests pass.
    #[must_use]
    pub fn after(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// The next `count` matching requests.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    /// Until the faults are cleared.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }
}

#[derive(Default)]
pub(super) struct Faults(Vec<FaultRule>);

impl Faults {
    pub(super) fn add(&mut self, rule: FaultRule) {
        self.0.push(rule);
    }

    /// The effect of the first rule that matches, which is used up by one.
    pub(super) fn take(&mut self, operation: Operation, secret: Option<&str>) -> Option<Effect> {
        let rule = self.0.iter_mut().find(|rule| {
            rule.times > 0
                && rule.operation.is_none_or(|wanted| wanted == operation)
                && (rule.secret.is_none() || rule.secret.as_deref() == secret)
        })?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        rule.times -= 1;
        let effect = rule.effect.clone();
        self.0.retain(|rule| rule.times > 0);
        Some(effect)
    }
}
