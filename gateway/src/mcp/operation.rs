//! What surrounds every request of a caller: quota, audit line, metric, span, progress, and an end when the client goes
//! away.

use std::{sync::Arc, time::Instant};

use rmcp::{ErrorData, RoleServer, model::ErrorCode, service::RequestContext};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use super::{Gateway, progress};
use crate::{
    audit::{Call, Record},
    caller::Caller,
    quota::{Permit, Refusal},
    telemetry::spans,
    tools::{Code, ToolError},
};

/// A request in progress.
pub struct Operation<'a> {
    gateway: &'a Gateway,
    caller: &'a Caller,
    method: &'static str,
    tool: String,
    started: Instant,
    record: Record,
    span: Span,
}

impl<'a> Operation<'a> {
    /// Begins with the request's own span, if it has one.
    #[must_use]
    pub fn begin(
        gateway: &'a Gateway,
        caller: &'a Arc<Caller>,
        context: &RequestContext<RoleServer>,
        call: Call<'_>,
    ) -> Self {
        let span = super::handler::parts(context).and_then(|parts| parts.extensions.get::<Span>()).cloned();
        let (method, tool) = (call.method, call.tool.unwrap_or_default().to_owned());
        let record = gateway.audit.begin(caller.clone(), call);
        Self { gateway, caller, method, tool, started: Instant::now(), record, span: span.unwrap_or(Span::none()) }
    }

    /// Acquires a slot within the quotas.
    ///
    /// # Errors
    /// `RATE_LIMITED`.
    pub async fn admit(&self) -> Result<Permit, ToolError> {
        self.gateway.quotas.admit(self.caller).await.map_err(|refusal| {
            self.gateway.services.metrics.quota_refusals.with_label_values(&refusal.labels()).inc();
            rate_limited(&refusal)
        })
    }

    /// Does the work, or stops when the client goes away or sends `notifications/cancelled`. Dropping the work cancels
    /// its statement on the server.
    pub async fn run<F: Future>(&self, context: &RequestContext<RoleServer>, work: F) -> Option<F::Output> {
        let meter = self.record.meter();
        let work = meter.clone().measure(work).instrument(self.span.clone());
        let asked = super::handler::parts(context).and_then(|parts| parts.extensions.get::<Arc<CancellationToken>>());
        let asked = asked.cloned().unwrap_or_default();
        tokio::select! {
            output = work => Some(output),
            never = progress::report(context, &meter, self.started) => match never {},
            () = context.ct.cancelled() => None,
            () = asked.cancelled() => None,
        }
    }

    /// Ends the operation: `outcome` for the audit, `error_type` (empty on success) for metric and span.
    pub fn end(self, outcome: &'static str, error_type: &str) {
        self.record.finish(outcome);
        self.gateway.services.observe(self.method, &self.tool, error_type, self.started);
        if !error_type.is_empty() {
            spans::failed(&self.span, error_type);
        }
    }

    /// Runs a whole request other than a tool call.
    ///
    /// # Errors
    /// Errors of the work or of the quota, or that the client gave up.
    pub async fn complete<T>(
        self,
        context: &RequestContext<RoleServer>,
        work: impl Future<Output = Result<T, ErrorData>>,
    ) -> Result<T, ErrorData> {
        let permit = match self.admit().await {
            Ok(permit) => permit,
            Err(error) => {
                self.end(error.code.as_str(), RATE_LIMITED);
                return Err(ErrorData::internal_error(error.message.clone(), Some(error.structured())));
            }
        };
        let done = Box::pin(self.run(context, work)).await;
        drop(permit);
        match done {
            None => {
                self.end("cancelled", "cancelled");
                Err(ErrorData::internal_error("cancelled", None))
            }
            Some(Ok(result)) => {
                self.end("ok", "");
                Ok(result)
            }
            Some(Err(error)) => {
                let code = error.code.0.to_string();
                self.end(outcome(&error), &code);
                Err(error)
            }
        }
    }
}

/// `error.type` of a request that a quota refused: the code of the JSON-RPC error.
const RATE_LIMITED: &str = "-32603";

/// The error of a call that a quota refused.
fn rate_limited(refusal: &Refusal) -> ToolError {
    let [scope, kind] = refusal.labels();
    let seconds = refusal.retry_after_seconds();
    let who = if scope == "principal" { "you have made" } else { "your tenant has made" };
    let what = if kind == "rate" { "too many calls in a minute" } else { "too many calls at once" };
    let error = ToolError::new(Code::RateLimited, format!("{who} {what}; try again in {seconds} s"));
    ToolError { retry_after_seconds: Some(seconds), ..error }
}

/// The code for an error in the audit: the tool's own code if the error has one.
fn outcome(error: &ErrorData) -> &'static str {
    let code = error.data.as_ref().and_then(|data| data["code"].as_str());
    match code.and_then(Code::named) {
        Some(code) => code.as_str(),
        None if matches!(error.code, ErrorCode::INVALID_PARAMS | ErrorCode::RESOURCE_NOT_FOUND) => "INVALID_PARAMS",
        None => Code::Internal.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use rmcp::ErrorData;

    use super::{Code, ToolError, outcome};

    #[test]
    fn outcomes_are_a_closed_set() {
        let error = ToolError::new(Code::Unavailable, "away");
        let of = |error: ErrorData| outcome(&error);
        assert_eq!(of(ErrorData::internal_error("x", Some(error.structured()))), "UNAVAILABLE");
        assert_eq!(of(ErrorData::invalid_params("x", None)), "INVALID_PARAMS");
        assert_eq!(of(ErrorData::resource_not_found("x", None)), "INVALID_PARAMS");
        assert_eq!(of(ErrorData::internal_error("x", Some(serde_json::json!({"code": "made up"})))), "MCP_ERROR");
    }
}
