//! The numbers in `spec.gateway`: limits of statements, and quotas of calls.

use std::{num::NonZeroU32, time::Duration};

use storefence_tenancy::resource::GatewayLimits;

/// Limits of one tenant's statements and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most rows of a result.
    pub max_rows: u32,
    /// Most bytes of a result's rows.
    pub max_bytes: u32,
    /// Longest run of a statement.
    pub timeout: Duration,
    /// How long a cached response may be served; absent turns the cache off.
    pub cache_ttl: Option<Duration>,
}

impl From<&GatewayLimits> for Limits {
    fn from(limits: &GatewayLimits) -> Self {
        let (max_rows, max_bytes) = (limits.max_rows, limits.max_result_bytes);
        Self { max_rows, max_bytes, timeout: limits.timeout(), cache_ttl: limits.cache_ttl() }
    }
}

/// Limits of calls: requests per minute and concurrent calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// For each principal.
    pub principal: Bounds,
    /// For all principals of the tenant together.
    pub tenant: Bounds,
}

/// Limits of one principal, or of a whole tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Calls per minute; absent is unlimited.
    pub per_minute: Option<NonZeroU32>,
    /// Concurrent calls.
    pub concurrent: u32,
}

impl From<&GatewayLimits> for Quotas {
    fn from(limits: &GatewayLimits) -> Self {
        // The schema refuses zero. One is the smallest quota that accepts any call.
        let bounds = |per_minute: Option<u32>, concurrent: u32| Bounds {
            per_minute: per_minute.map(|n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN)),
            concurrent: concurrent.max(1),
        };
        Self {
            principal: bounds(limits.requests_per_minute, limits.concurrent_calls),
            tenant: bounds(limits.tenant_requests_per_minute, limits.tenant_concurrent_calls),
        }
    }
}
