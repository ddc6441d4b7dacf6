//! `notifications/message`: log messages about a client's own calls, on the stream of the call itself.
//!
//! In 2026-07-28 each request sets its level (`_meta`, `io.modelcontextprotocol/logLevel`); the older revisions set it
//! once, with `logging/setLevel`. That level is kept by the replica that received it, under the token and the session
//! id. Other replicas send nothing, which the revision permits where no level was set.
// SEP-2577 deprecates logging; all revisions that are served have it.
#![allow(deprecated)]

use std::time::{Duration, Instant};

use moka::sync::Cache;
use rmcp::{
    RoleServer,
    model::{LoggingLevel, LoggingMessageNotificationParam, ProtocolVersion},
    service::RequestContext,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    handler::parts,
    revision::{Client as Asking, read_session},
};
use crate::{
    cache::Answered,
    caller::Caller,
    tools::{Code, ToolError},
};

const LOGGER: &str = "storefence";
const CLIENTS_MAX: u64 = 10_000;
const KEPT: Duration = Duration::from_secs(12 * 3600);

type Client = ([u8; 16], Option<Uuid>);

/// The level that each client has set.
#[derive(Debug)]
pub struct Levels(Cache<Client, LoggingLevel>);

impl Default for Levels {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(CLIENTS_MAX).time_to_idle(KEPT).build())
    }
}

impl Levels {
    /// Sets the level for the client of this request.
    pub fn set(&self, context: &RequestContext<RoleServer>, caller: &Caller, level: LoggingLevel) {
        self.0.insert(client(context, caller), level);
    }

    fn wanted(&self, context: &RequestContext<RoleServer>, caller: &Caller) -> Option<LoggingLevel> {
        if context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28) {
            return context.meta.log_level();
        }
        self.0.get(&client(context, caller))
    }

    /// Sends how a call ended, if its client asked for messages of that level.
    pub async fn notify(
        &self,
        context: &RequestContext<RoleServer>,
        caller: &Caller,
        tool: &str,
        outcome: &Result<Answered, ToolError>,
        started: Instant,
    ) {
        let Some(wanted) = self.wanted(context, caller).filter(|_| Asking::of(context).streams) else { return };
        let level = weight(outcome.as_ref().err().map(|error| error.code));
        if (level as u8) < (wanted as u8) {
            return;
        }
        let word = outcome.as_ref().map_or_else(|error| error.code.as_str(), |_| "ok");
        let notification = LoggingMessageNotificationParam::new(level, data(caller, tool, word, started));
        // A client that is gone has cancelled the call as well.
        let _ = Box::pin(context.peer.notify_logging_message(notification.with_logger(LOGGER))).await;
    }
}

/// The message. It holds nothing of the statement or of the answer.
fn data(caller: &Caller, tool: &str, outcome: &str, started: Instant) -> Value {
    let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    json!({"tool": tool, "outcome": outcome, "durationMs": milliseconds, "correlationId": caller.correlation})
}

const fn weight(error: Option<Code>) -> LoggingLevel {
    match error {
        None => LoggingLevel::Info,
        Some(Code::Unavailable | Code::Internal) => LoggingLevel::Error,
        Some(_) => LoggingLevel::Warning,
    }
}

/// The token, and the session id if the client has one. The client can send any id, so it only distinguishes the
/// clients of one token.
fn client(context: &RequestContext<RoleServer>, caller: &Caller) -> Client {
    (*caller.principal.token(), parts(context).and_then(|parts| read_session(&parts.headers).1))
}
