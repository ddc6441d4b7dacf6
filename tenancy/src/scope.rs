//! The scope of a verified token within one tenant: role, stores and tools.

use std::{collections::BTreeSet, sync::Arc};

use uuid::Uuid;

use crate::{
    TenantId,
    claims::{Claims, Groups, TokenKind},
    resource::Role,
    rules::{Grant, Rule, Selector, TenantRules, ToolSet},
};

/// The stores a scope reaches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StoreSet {
    /// All stores of the tenant, those added later included.
    All,
    /// These; never empty.
    Some(BTreeSet<Uuid>),
}

impl StoreSet {
    /// Whether the store is in reach.
    #[must_use]
    pub fn contains(&self, store: &Uuid) -> bool {
        match self {
            Self::All => true,
            Self::Some(ids) => ids.contains(store),
        }
    }

    pub(crate) fn len_hint(&self) -> usize {
        match self {
            Self::All => 0,
            Self::Some(ids) => ids.len(),
        }
    }
}

/// What one verified token may see in one tenant. Made only by [`Scope::compute`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    tenant: TenantId,
    role: Role,
    stores: StoreSet,
    tools: ToolSet,
    rules: Vec<Arc<str>>,
}

/// Why a token has no scope in a tenant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoScope {
    /// The token is of another Entra tenant.
    #[error("the token's tid is not this tenant's")]
    ForeignDirectory,
    /// An app-only token, and no rule names the application.
    #[error("the token is of an application without a user, and no entraApplication rule names that application")]
    AppOnly,
    /// Nothing matched, and group membership is unknown because the user is in more groups than a token holds.
    #[error("the token lists no groups because the user is in too many (groups overage); ask for an app role instead")]
    GroupsOverage,
    /// Nothing matched.
    #[error("no principal rule matches")]
    NoRule,
}

impl NoScope {
    /// The label in metrics, logs and audit lines.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::ForeignDirectory => "ForeignDirectory",
            Self::AppOnly => "AppOnly",
            Self::GroupsOverage => "GroupsOverage",
            Self::NoRule => "NoRule",
        }
    }
}

impl Scope {
    /// Maps claims to the scope: the union over all matching rules, `HeadOffice` being all stores and a rule without a list
    /// all tools. No match is no
    /// scope; there is no default.
    ///
    /// # Errors
    /// [`NoScope`] says why nothing is granted.
    pub fn compute(claims: &Claims, tenant: &TenantRules) -> Result<Self, NoScope> {
        if claims.tid != tenant.directory() {
            return Err(NoScope::ForeignDirectory);
        }
        let mut scope: Option<Self> = None;
        for rule in tenant.rules() {
            let Some(stores) = granted(claims, rule, tenant) else { continue };
            match &mut scope {
                None => {
                    scope = Some(Self {
                        tenant: tenant.tenant_id().clone(),
                        role: rule.role,
                        stores,
                        tools: rule.tools.clone(),
                        rules: vec![rule.name.clone()],
                    });
                }
                Some(scope) => scope.widen(rule, stores),
            }
        }
        scope.ok_or_else(|| {
            if claims.kind == TokenKind::App {
                return NoScope::AppOnly;
            }
            let by_group = |rule: &Rule| matches!(rule.selector, Selector::Group(_));
            if claims.groups == Groups::Overage && tenant.rules().iter().any(by_group) {
                NoScope::GroupsOverage
            } else {
                NoScope::NoRule
            }
        })
    }

    fn widen(&mut self, rule: &Rule, stores: StoreSet) {
        self.role = self.role.max(rule.role);
        self.rules.push(rule.name.clone());
        self.tools.extend(&rule.tools);
        match (&mut self.stores, stores) {
            (StoreSet::All, _) => {}
            (mine, StoreSet::All) => *mine = StoreSet::All,
            (StoreSet::Some(mine), StoreSet::Some(more)) => mine.extend(more),
        }
    }

    /// The tenant.
    #[must_use]
    pub const fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The highest role among the matching rules.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The stores in reach.
    #[must_use]
    pub const fn stores(&self) -> &StoreSet {
        &self.stores
    }

    /// The tools that may be used: what one of the matching rules grants may be used over all stores in reach.
    #[must_use]
    pub const fn tools(&self) -> &ToolSet {
        &self.tools
    }

    /// Names of the rules that matched, in the order of the spec.
    #[must_use]
    pub fn rules(&self) -> &[Arc<str>] {
        &self.rules
    }
}

/// The stores that one rule grants to this token; `None` when the rule does not match. A `storesFromClaim` rule whose
/// claim names no store of the tenant does not match.
fn granted(claims: &Claims, rule: &Rule, tenant: &TenantRules) -> Option<StoreSet> {
    // Rules for users and rules for applications are two worlds: a role that is assignable to both, or a claim that an
    // application's token happens to carry, must not let a daemon in where people are meant.
    let for_applications = matches!(rule.selector, Selector::Application(_));
    if for_applications != (claims.kind == TokenKind::App) {
        return None;
    }
    let matches = match &rule.selector {
        Selector::User(oid) => claims.oid == *oid,
        Selector::Application(id) => claims.application == Some(*id),
        Selector::Group(id) => match &claims.groups {
            Groups::Known(groups) => groups.contains(id),
            Groups::Overage => false,
        },
        Selector::AppRole(value) => claims.roles.contains(value),
        Selector::Claim { name, value } => claims.has_value(name, value),
        Selector::StoresFromClaim(name) => {
            let ids: BTreeSet<Uuid> =
                claims.values(name).into_iter().filter_map(|value| tenant.store_by_name_or_id(value)).collect();
            return (!ids.is_empty()).then_some(StoreSet::Some(ids));
        }
    };
    matches.then(|| match &rule.grant {
        Grant::AllStores => StoreSet::All,
        Grant::Stores(ids) => StoreSet::Some(ids.iter().copied().collect()),
        // A rule of kind storesFromClaim returned above.
        Grant::FromClaim => StoreSet::Some(BTreeSet::new()),
    })
}
