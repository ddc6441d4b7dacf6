//! Who owns a tenantId when several `RetailTenant` objects claim it.

use storefence_tenancy::RetailTenant;

/// One object that claims a tenantId.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// `metadata.uid`.
    pub uid: String,
    /// `namespace/name`, for messages.
    pub name: String,
    /// `metadata.creationTimestamp` as text; RFC 3339 in UTC sorts as time.
    pub created: String,
    /// Whether it is served: it has `status.credentials`.
    pub served: bool,
}

impl Claimant {
    /// Reads the claim of an object.
    #[must_use]
    pub fn of(object: &RetailTenant) -> Self {
        let metadata = &object.metadata;
        Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            name: format!(
                "{}/{}",
                metadata.namespace.as_deref().unwrap_or_default(),
                metadata.name.as_deref().unwrap_or_default()
            ),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0.to_string()).unwrap_or_default(),
            served: object.status.as_ref().is_some_and(|status| status.credentials.is_some()),
        }
    }
}

/// Which claimant owns the tenantId: the one that the database records, then one that is served, then the oldest, then
/// the smallest UID. `recorded` is the UID in `fence.tenants`; `None` where the database could not be read.
#[must_use]
pub fn owner<'a>(claimants: &'a [Claimant], recorded: Option<&str>) -> Option<&'a Claimant> {
    if let Some(owner) = recorded.and_then(|uid| claimants.iter().find(|claimant| claimant.uid == uid)) {
        return Some(owner);
    }
    claimants.iter().min_by_key(|claimant| (!claimant.served, &claimant.created, &claimant.uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimant(uid: &str, created: &str, served: bool) -> Claimant {
        Claimant { uid: uid.into(), name: format!("ns/{uid}"), created: created.into(), served }
    }

    fn winner(claimants: &[Claimant], recorded: Option<&str>) -> String {
        owner(claimants, recorded).unwrap().uid.clone()
    }

    #[test]
    fn record_then_service_then_age_then_uid() {
        let old = claimant("old", "2026-01-01T00:00:00Z", false);
        let served = claimant("served", "2026-02-01T00:00:00Z", true);
        let new = claimant("new", "2026-03-01T00:00:00Z", false);
        let twin = claimant("mew", "2026-03-01T00:00:00Z", false);
        let all = [new.clone(), old.clone(), served, twin.clone()];
        assert_eq!(winner(&all, Some("new")), "new");
        assert_eq!(winner(&all, Some("gone")), "served");
        assert_eq!(winner(&all, None), "served");
        assert_eq!(winner(&[new.clone(), old], None), "old");
        assert_eq!(winner(&[new, twin], None), "mew");
        assert_eq!(owner(&[], Some("x")), None);
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let mut all = vec![
            claimant("a", "2026-03-01T00:00:00Z", false),
            claimant("b", "2026-01-01T00:00:00Z", false),
            claimant("c", "2026-02-01T00:00:00Z", false),
        ];
        for _ in 0..3 {
            all.rotate_left(1);
            assert_eq!(winner(&all, None), "b");
        }
    }
}
