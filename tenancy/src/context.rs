//! The signed context: a scope as the database receives it.
//!
//! ```text
//! context = body "." hex(HMAC-SHA-256(key, body))
//! body    = "v1|" kid "|" tenantId "|" pid "|" ticket "|" exp "|" stores
//! stores  = "*" | uuid *("," uuid)        ; lower case, sorted, unique
//! ```
//!
//! It is good for one call on one backend: `fence.visible_stores()` compares `pid` with its own and `ticket` with the
//! session's last `fence.ticket()`, which moves with every call. A context that leaks (a log, a colleague, the setting
//! that carries it) is therefore useless in any other call.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{TenantId, credentials::ContextKey, scope::StoreSet};

/// The longest life of a context, in seconds. The database refuses more.
pub const MAX_LIFETIME_SECONDS: u64 = 60;

/// What `fence.ticket()` answered on the connection that will carry the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Number of this call, unique in the database.
    pub ticket: i64,
    /// `pg_backend_pid()`.
    pub pid: i32,
    /// The server's clock when the ticket was given, in Unix seconds.
    pub epoch: i64,
}

/// A key for another purpose, which reveals nothing about `key`: HMAC-SHA-256 over `purpose:`. The text of a context begins
/// with `v1|`, so no signature of a context is ever such a key.
#[must_use]
#[allow(clippy::missing_panics_doc)] // HMAC takes a key of any length
pub fn derive(key: &ContextKey, purpose: &str) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.bytes()).expect("HMAC takes a key of any length");
    mac.update(purpose.as_bytes());
    mac.update(b":");
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// Signs the context of one call.
///
/// `expires` is in Unix seconds of the **server's** clock ([`Ticket::epoch`] plus the time since), so that the clocks
/// of gateway and database need not agree; at most [`MAX_LIFETIME_SECONDS`] ahead of it.
#[must_use]
#[allow(clippy::missing_panics_doc)] // HMAC takes a key of any length
pub fn sign(key: &ContextKey, kid: u32, tenant: &TenantId, ticket: Ticket, expires: i64, stores: &StoreSet) -> String {
    let mut context = String::with_capacity(128 + stores.len_hint() * 37);
    let _ = write!(context, "v1|{kid}|{tenant}|{}|{}|{expires}|", ticket.pid, ticket.ticket);
    match stores {
        StoreSet::All => context.push('*'),
        StoreSet::Some(ids) => {
            for (i, id) in ids.iter().enumerate() {
                if i > 0 {
                    context.push(',');
                }
                let _ = write!(context, "{id}");
            }
        }
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(key.bytes()).expect("HMAC takes a key of any length");
    mac.update(context.as_bytes());
    context.push('.');
    for byte in mac.finalize().into_bytes() {
        let _ = write!(context, "{byte:02x}");
    }
    context
}

#[cfg(test)]
mod tests {
    use sha2::Digest;
    use uuid::Uuid;

    use super::*;

    const TICKET: Ticket = Ticket { ticket: 42, pid: 4711, epoch: 1_800_000_000 };

    fn signed(stores: &StoreSet) -> String {
        sign(&ContextKey::new([9; 32]), 3, &"zava".parse().unwrap(), TICKET, 1_800_000_030, stores)
    }

    #[test]
    fn derived_keys_differ_by_key_and_purpose() {
        let (one, other) = (ContextKey::new([9; 32]), ContextKey::new([8; 32]));
        let keys = [derive(&one, "a"), derive(&one, "b"), derive(&one, "a:"), derive(&other, "a")];
        let unique: std::collections::HashSet<_> = keys.iter().map(|key| **key).collect();
        assert_eq!(unique.len(), keys.len());
        assert_eq!(*derive(&one, "a"), *keys[0]);
    }

    #[test]
    fn body_is_as_documented() {
        let (body, mac) = {
            let context = signed(&StoreSet::All);
            let (body, mac) = context.split_once('.').unwrap();
            (body.to_owned(), mac.to_owned())
        };
        assert_eq!(body, "v1|3|zava|4711|42|1800000030|*");
        assert_eq!(mac.len(), 64);
    }

    #[test]
    fn stores_are_sorted_and_lower_case() {
        let high = Uuid::from_u128(0xF000_0000_0000_0000_0000_0000_0000_0000);
        let context = signed(&StoreSet::Some([high, Uuid::from_u128(1)].into()));
        assert!(context.contains(&format!("|{},{high}.", Uuid::from_u128(1))));
    }

    #[test]
    fn the_pads_compute_the_same_mac_as_the_database_does() {
        let key = ContextKey::new([9; 32]);
        let context = signed(&StoreSet::All);
        let (body, mac) = context.split_once('.').unwrap();
        let pads = key.pads();
        let inner = Sha256::new().chain_update(pads.inner).chain_update(body).finalize();
        let outer = Sha256::new().chain_update(pads.outer).chain_update(inner).finalize();
        let mut hex = String::new();
        for byte in outer {
            write!(hex, "{byte:02x}").unwrap();
        }
        assert_eq!(hex, mac);
    }
}
