//! The quota counters of all replicas, in Redis.
//!
//! Keys are hashes, so that a reader of Redis does not learn who calls which tenant how often. The keys of one tenant
//! share a hash tag, so that a cluster keeps them on one node, as the script requires.

use std::{sync::LazyLock, time::Duration};

use redis::Script;
use sha2::{Digest, Sha256};
use storefence_tenancy::TenantId;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::Refusal;
use crate::{
    identity::PrincipalId,
    redis::{Away, Redis},
    tenants::limits::{Bounds, Quotas},
};

/// How long a call counts without being renewed: the calls of a replica that died stop counting after this.
const LEASE: Duration = Duration::from_secs(30);
/// How often a call in progress is renewed.
const RENEW: Duration = Duration::from_secs(10);

static ADMIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("admit.lua")));
/// Renews a call, unless it has ended.
static RENEWAL: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
        local until_then = string.format('%.0f', time[1] * 1000000 + time[2] + ARGV[2] * 1000)
        for _, key in ipairs(KEYS) do
            redis.call('ZADD', key, 'XX', until_then, ARGV[1])
            redis.call('PEXPIRE', key, ARGV[2])
        end
        return 0",
    )
});

/// Counts together with the other replicas.
pub struct Shared {
    redis: Redis,
}

impl Shared {
    /// Counts in this Redis.
    pub const fn new(redis: Redis) -> Self {
        Self { redis }
    }

    /// Accepts or refuses a call.
    ///
    /// # Errors
    /// [`Away`]: the number of calls is unknown.
    pub async fn admit(
        &self,
        tenant: &TenantId,
        principal: PrincipalId,
        quotas: Quotas,
    ) -> Result<Result<Lease, Refusal>, Away> {
        let [own, all] = keys(tenant, principal);
        let call = Uuid::new_v4().to_string();
        let millis = LEASE.as_millis().to_string();
        let mut script = ADMIT.prepare_invoke();
        for key in [&own, &all] {
            script.key(format!("{key}:rate")).key(format!("{key}:running"));
        }
        for Bounds { per_minute, concurrent } in [quotas.principal, quotas.tenant] {
            script.arg(per_minute.map_or(0, std::num::NonZeroU32::get)).arg(concurrent);
        }
        // Even if no answer arrives: once the script has been sent, the call may count.
        let lease = Lease::new(self.redis.clone(), call.clone(), [own, all].map(|key| format!("{key}:running")));
        let (refused, wait): (u8, u64) = self.redis.script(script.arg(call).arg(millis)).await?;
        let refusal = |scope, kind| Err(Refusal { scope, kind, retry_after: Duration::from_millis(wait) });
        if refused > 0 {
            lease.refused();
            return Ok(match refused {
                1 => refusal("principal", "concurrency"),
                2 => refusal("principal", "rate"),
                3 => refusal("tenant", "concurrency"),
                _ => refusal("tenant", "rate"),
            });
        }
        Ok(Ok(lease))
    }
}

/// The key prefixes of a principal and of its tenant.
fn keys(tenant: &TenantId, (tid, oid): PrincipalId) -> [String; 2] {
    let hash =
        |text: String| Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>();
    let tag = format!("storefence:quota:{{{}}}", hash(tenant.to_string()));
    [format!("{tag}:{}", hash(format!("{tenant}|{tid}|{oid}"))), tag]
}

/// A call that counts until this is dropped.
#[derive(Debug)]
pub struct Lease {
    end: Option<oneshot::Sender<End>>,
}

/// How a call's slot ends.
#[derive(Debug)]
enum End {
    /// It is released.
    Over,
    /// The call never had one.
    Refused,
}

impl Lease {
    fn new(redis: Redis, call: String, keys: [String; 2]) -> Self {
        let (end, ended) = oneshot::channel();
        tokio::spawn(keep(redis, call, keys, ended));
        Self { end: Some(end) }
    }

    fn refused(mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.send(End::Refused);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.send(End::Over);
        }
    }
}

/// Renews a call while it runs, and releases its slot at the end. If the release does not reach Redis, the slot ends
/// with its lease.
async fn keep(redis: Redis, call: String, keys: [String; 2], mut ended: oneshot::Receiver<End>) {
    let end = loop {
        match tokio::time::timeout(RENEW, &mut ended).await {
            Ok(end) => break end,
            Err(_) => {
                let mut renewal = RENEWAL.prepare_invoke();
                keys.iter().for_each(|key| {
                    renewal.key(key);
                });
                let _ = redis.script::<i64>(renewal.arg(&call).arg(LEASE.as_millis().to_string())).await;
            }
        }
    };
    if !matches!(end, Ok(End::Refused)) {
        for key in &keys {
            let _ = redis.run::<i64>(redis::cmd("ZREM").arg(key).arg(&call)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::keys;

    #[test]
    fn keys_name_nobody_and_share_a_hash_tag() {
        let (tid, oid) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let [own, all] = keys(&"zava".parse().expect("id"), (tid, oid));
        for part in ["zava", "0000"] {
            assert!(!own.contains(part) && !all.contains(part), "{own} {all}");
        }
        assert!(own.starts_with(&all) && all.ends_with('}') && own != all);
        let [other, _] = keys(&"contoso".parse().expect("id"), (tid, oid));
        assert_ne!(own, other);
    }
}
