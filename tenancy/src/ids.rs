//! Identifiers that are checked once, where they enter, and trusted afterwards.

use std::{fmt, str::FromStr, sync::Arc};

/// The longest `tenantId`: it stands in Key Vault secret names and in the signed context.
pub const TENANT_ID_MAX: usize = 40;

/// The identifier of one retail chain: `^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`.
///
/// Being free of `|`, `.`, `/` and upper case, it can stand unescaped in a URL path, a secret name and the signed
/// context.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Arc<str>);

/// A text that is not a [`TenantId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tenantId has 1 to {TENANT_ID_MAX} of a-z, 0-9 and '-', and neither starts nor ends with '-'")]
pub struct InvalidTenantId;

impl TenantId {
    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantId {
    type Err = InvalidTenantId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let bounded = !text.is_empty() && text.len() <= TENANT_ID_MAX;
        if allowed && bounded && !text.starts_with('-') && !text.ends_with('-') {
            Ok(Self(text.into()))
        } else {
            Err(InvalidTenantId)
        }
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_pattern_accepts() {
        for good in ["a", "7", "zava", "zava-eu-1", &"a".repeat(40)] {
            assert_eq!(good.parse::<TenantId>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn refuses_everything_else() {
        for bad in ["", "-a", "a-", "Zava", "a_b", "a.b", "a|b", "a b", "zäva", "a/b", &"a".repeat(41)] {
            assert_eq!(bad.parse::<TenantId>(), Err(InvalidTenantId), "{bad}");
        }
    }
}
