//! Limits of one tenant at the gateway, and the rotation of its credentials.

use std::time::Duration;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{CACHE_TTL_MAX, ROTATION_PERIOD_MIN, STATEMENT_TIMEOUT_MAX};

/// Limits that the gateway keeps for one tenant.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayLimits {
    /// Most rows of an answer; more are cut and `truncated` says so.
    #[serde(default = "default_max_rows")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_rows: u32,

    /// Most bytes of an answer's rows as JSON; more are cut and `truncated` says so.
    #[serde(default = "default_max_result_bytes")]
    #[schemars(range(min = 1024, max = 67_108_864))]
    pub max_result_bytes: u32,

    /// Longest run of one statement, `100ms` to `60s`.
    #[serde(default = "default_statement_timeout")]
    #[schemars(length(max = 16), regex(pattern = "^[0-9]{1,5}(ms|s)$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('60s')")
        .message("statementTimeout must be 100ms to 60s"))]
    pub statement_timeout: String,

    /// Most tool calls of one principal in a minute, per gateway replica; unlimited where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_minute: Option<u32>,

    /// Most tool calls of one principal at a time, per gateway replica.
    #[serde(default = "default_concurrent_calls")]
    #[schemars(range(min = 1, max = 10_000))]
    pub concurrent_calls: u32,

    /// Most tool calls of the whole tenant in a minute, per gateway replica; unlimited where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub tenant_requests_per_minute: Option<u32>,

    /// Most tool calls of the whole tenant at a time, per gateway replica. Fewer statements than that run at once, since
    /// each needs a database connection; the rest wait for one.
    #[serde(default = "default_tenant_concurrent_calls")]
    #[schemars(range(min = 1, max = 100_000))]
    pub tenant_concurrent_calls: u32,

    /// How long an answer may be given again to callers of the same scope, `1s` to `1h`; no answer is kept where absent.
    /// Answers are then up to that old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 24), regex(pattern = "^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')")
        .message("cacheTtl must be 1s to 1h"))]
    pub cache_ttl: Option<String>,

    /// Most sessions of each of the tenant's two logins in the database, over all gateway replicas: PostgreSQL's
    /// `CONNECTION LIMIT`. Where absent, a login starts with 100, and a limit that an administrator sets stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 10_000))]
    pub connection_limit: Option<u32>,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            max_rows: default_max_rows(),
            max_result_bytes: default_max_result_bytes(),
            statement_timeout: default_statement_timeout(),
            requests_per_minute: None,
            concurrent_calls: default_concurrent_calls(),
            tenant_requests_per_minute: None,
            tenant_concurrent_calls: default_tenant_concurrent_calls(),
            cache_ttl: None,
            connection_limit: None,
        }
    }
}

const fn default_concurrent_calls() -> u32 {
    64
}

const fn default_tenant_concurrent_calls() -> u32 {
    256
}

const fn default_max_rows() -> u32 {
    500
}

const fn default_max_result_bytes() -> u32 {
    1_048_576
}

fn default_statement_timeout() -> String {
    "5s".to_owned()
}

impl GatewayLimits {
    /// `statementTimeout` as a duration. A text that the schema would refuse counts as the default, 5 s, and never as
    /// more than [`STATEMENT_TIMEOUT_MAX`].
    #[must_use]
    pub fn timeout(&self) -> Duration {
        let text = self.statement_timeout.as_str();
        let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let parsed = match (digits.parse::<u64>(), unit) {
            (Ok(n), "ms") => Duration::from_millis(n),
            (Ok(n), "s") => Duration::from_secs(n),
            _ => Duration::from_secs(5),
        };
        parsed.clamp(Duration::from_millis(100), STATEMENT_TIMEOUT_MAX)
    }

    /// `cacheTtl`; a text that the schema would refuse counts as absent.
    #[must_use]
    pub fn cache_ttl(&self) -> Option<Duration> {
        self.cache_ttl.as_deref().and_then(hours_minutes_seconds).filter(|ttl| *ttl <= CACHE_TTL_MAX)
    }
}

/// When the credentials of one tenant are replaced.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.overlap) >= duration('1s') && duration(self.overlap) < duration(self.period)")
    .message("rotation: overlap must be at least 1s and shorter than period"))]
#[x_kube(validation = Rule::new("duration(self.period) >= duration('1h')")
    .message("rotation: period must be at least 1h; the annotation retail.storefence.dev/rotate asks for new credentials at once"))]
pub struct Rotation {
    /// Age at which credentials are replaced, in hours, minutes and seconds: `720h`, `36h30m`. At least `1h`: each rotation
    /// leaves versions of two secrets in the Key Vault.
    #[serde(default = "default_rotation_period")]
    #[schemars(length(min = 2, max = 24), regex(pattern = "^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$"))]
    pub period: String,

    /// How long the former credentials stay valid beside the new ones, for calls that began with them.
    #[serde(default = "default_rotation_overlap")]
    #[schemars(length(min = 2, max = 24), regex(pattern = "^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$"))]
    pub overlap: String,
}

fn default_rotation_period() -> String {
    "720h".to_owned()
}

fn default_rotation_overlap() -> String {
    "24h".to_owned()
}

impl Default for Rotation {
    fn default() -> Self {
        Self { period: default_rotation_period(), overlap: default_rotation_overlap() }
    }
}

impl Rotation {
    /// `period`; a text that the schema would refuse counts as the default, and never as less than
    /// [`ROTATION_PERIOD_MIN`].
    #[must_use]
    pub fn period(&self) -> Duration {
        hours_minutes_seconds(&self.period).unwrap_or(Duration::from_secs(720 * 3600)).max(ROTATION_PERIOD_MIN)
    }

    /// `overlap`; a text that the schema would refuse counts as the default.
    #[must_use]
    pub fn overlap(&self) -> Duration {
        hours_minutes_seconds(&self.overlap).unwrap_or(Duration::from_secs(24 * 3600))
    }
}

/// Reads the hours, minutes and seconds of Go's durations, each at most once and in this order; not zero.
fn hours_minutes_seconds(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, 0_u64);
    for (unit, seconds) in [('h', 3600), ('m', 60), ('s', 1)] {
        if let Some((digits, after)) = rest.split_once(unit) {
            if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
                return None;
            }
            total = total.checked_add(digits.parse::<u64>().ok()?.checked_mul(seconds)?)?;
            rest = after;
        }
    }
    (rest.is_empty() && total > 0).then(|| Duration::from_secs(total))
}
