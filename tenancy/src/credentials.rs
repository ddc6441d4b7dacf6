//! Names and payloads of a tenant's credentials: Key Vault secrets, login roles, the context key.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::TenantId;

/// Tag that marks a Key Vault secret as ours; a secret without it is never touched.
pub const TAG_MANAGED_BY: &str = "managed-by";
/// Value of [`TAG_MANAGED_BY`].
pub const MANAGED_BY: &str = "storefence";
/// Tag that holds the UID of the `RetailTenant` a secret belongs to.
pub const TAG_OWNER_UID: &str = "storefence-uid";

/// One of the two PostgreSQL login roles of a tenant. Rotation moves from one to the other, so that the credentials in
/// use stay valid while the new ones are proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// The first slot; a new tenant starts here.
    A,
    /// The second slot.
    B,
}

impl Slot {
    /// Both slots.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The slot as it stands in names: `a` or `b`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The slot that rotation moves to.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Name of the Key Vault secret with the `postgresql://` URI of a login slot: `sf-{tenantId}-db-{slot}`.
#[must_use]
pub fn database_secret_name(tenant: &TenantId, slot: Slot) -> String {
    format!("sf-{tenant}-db-{slot}")
}

/// Name of the Key Vault secret with a context key, base64: `sf-{tenantId}-context-{kid}`.
#[must_use]
pub fn context_secret_name(tenant: &TenantId, kid: u32) -> String {
    format!("sf-{tenant}-context-{kid}")
}

/// Name of a tenant's login role: `sf_`, 12 hex digits, the slot.
///
/// Any login can read `pg_roles`, so the name must not reveal which tenants share a database: it is salted with a secret
/// of the database (`fence.settings`), which no login can read.
#[must_use]
pub fn login_role_name(database_salt: &[u8], tenant: &TenantId, slot: Slot) -> String {
    let digest = Sha256::new().chain_update(database_salt).chain_update([0]).chain_update(tenant.as_str()).finalize();
    let hex = digest[..6].iter().fold(0_u64, |hex, byte| hex << 8 | u64::from(*byte));
    format!("sf_{hex:012x}_{slot}")
}

/// The 32-byte key that signs contexts of one tenant. Wiped when dropped; never shown.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ContextKey([u8; 32]);

/// The two padded halves of an HMAC-SHA-256 key (RFC 2104), as the fence stores them: `key XOR 0x36…` and
/// `key XOR 0x5c…`, 64 bytes each. With them the database computes the HMAC from core `sha256()` alone.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct HmacPads {
    /// Inner pad.
    pub inner: [u8; 64],
    /// Outer pad.
    pub outer: [u8; 64],
}

/// A secret value that is not a context key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a context key is the base64 text of exactly 32 bytes")]
pub struct InvalidContextKey;

impl ContextKey {
    /// Wraps 32 bytes from a cryptographic random source.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads the payload of the Key Vault secret.
    ///
    /// # Errors
    /// [`InvalidContextKey`] when the text is not standard base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, InvalidContextKey> {
        let mut bytes = STANDARD.decode(text.trim()).map_err(|_| InvalidContextKey)?;
        let key = <[u8; 32]>::try_from(bytes.as_slice()).map(Self).map_err(|_| InvalidContextKey);
        bytes.zeroize();
        key
    }

    /// The payload of the Key Vault secret.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// The halves that the fence stores.
    #[must_use]
    pub fn pads(&self) -> HmacPads {
        let mut pads = HmacPads { inner: [0x36; 64], outer: [0x5c; 64] };
        for (i, byte) in self.0.iter().enumerate() {
            pads.inner[i] ^= byte;
            pads.outer[i] ^= byte;
        }
        pads
    }

    pub(crate) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ContextKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContextKey(…)")
    }
}

impl fmt::Debug for HmacPads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacPads(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zava() -> TenantId {
        "zava".parse().unwrap()
    }

    #[test]
    fn names_follow_the_design() {
        assert_eq!(database_secret_name(&zava(), Slot::A), "sf-zava-db-a");
        assert_eq!(context_secret_name(&zava(), 7), "sf-zava-context-7");
        assert_eq!(Slot::A.other(), Slot::B);
        assert_eq!(Slot::B.other(), Slot::A);
    }

    #[test]
    fn role_names_hide_the_tenant_and_differ_by_salt_and_slot() {
        let name = login_role_name(b"salt", &zava(), Slot::A);
        assert_eq!(name.len(), "sf_".len() + 12 + "_a".len());
        assert!(!name.contains("zava"));
        assert_ne!(name, login_role_name(b"other", &zava(), Slot::A));
        assert_eq!(name.trim_end_matches("_a"), login_role_name(b"salt", &zava(), Slot::B).trim_end_matches("_b"));
    }

    #[test]
    fn keys_round_trip_and_never_show() {
        let key = ContextKey::new([7; 32]);
        assert_eq!(ContextKey::from_base64(&key.to_base64()), Ok(key.clone()));
        assert_eq!(format!("{key:?}{:?}", key.pads()), "ContextKey(…)HmacPads(…)");
        for bad in ["", "AAAA", "not base64!", &STANDARD.encode([0; 33])] {
            assert_eq!(ContextKey::from_base64(bad), Err(InvalidContextKey), "{bad}");
        }
    }
}
