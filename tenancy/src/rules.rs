//! A `RetailTenant`'s spec, checked and resolved into what runs.
//!
//! The API server has applied most of these checks at admission (schema and CEL). Here all of them hold: also those that are
//! too expensive for CEL, and for objects that were stored before a rule was tightened or are read from a directory.

mod compile;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use uuid::Uuid;

use crate::{
    TenantId,
    names::normalised,
    resource::{PRINCIPALS_MAX, RULES_BYTES_MAX, RetailTenantSpec, Role, ToolName},
};
use compile::{Problems, compile_rule, compile_stores};

/// One field of a spec that cannot be used, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct SpecProblem {
    /// JSON path of the field, `spec.…`.
    pub field: String,
    /// What is wrong and what is expected.
    pub problem: String,
}

/// Which tokens a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Object ID of a user.
    User(Uuid),
    /// Client ID of an application; the only kind that app-only tokens match, and that tokens of users do not.
    Application(Uuid),
    /// Object ID of a group, lower case as Entra sends it.
    Group(String),
    /// Value of an app role.
    AppRole(String),
    /// A claim that is, or contains, this value.
    Claim {
        /// Name of the claim, taken literally (a dot is part of the name).
        name: String,
        /// The exact value.
        value: String,
    },
    /// A claim that lists store names or IDs.
    StoresFromClaim(String),
}

/// Which stores a rule grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// All stores of the tenant.
    AllStores,
    /// These stores, in the order of their IDs; never empty.
    Stores(Box<[Uuid]>),
    /// The stores that the token's claim names.
    FromClaim,
}

/// The tools of a rule or of a scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ToolSet {
    /// All tools, those of later releases included.
    All,
    /// These, and those that are everybody's; never empty.
    Some(BTreeSet<ToolName>),
}

impl ToolSet {
    /// Whether the tool of this name is granted. What no rule can name is everybody's.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(tools) => ToolName::named(name).is_none_or(|tool| tools.contains(&tool)),
        }
    }

    pub(crate) fn extend(&mut self, more: &Self) {
        match (&mut *self, more) {
            (Self::All, _) => {}
            (_, Self::All) => *self = Self::All,
            (Self::Some(mine), Self::Some(more)) => mine.extend(more),
        }
    }
}

/// A principal rule, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The rule's name.
    pub name: Arc<str>,
    /// The role it gives.
    pub role: Role,
    /// Whom it matches.
    pub selector: Selector,
    /// Which stores it grants.
    pub grant: Grant,
    /// Which tools it grants.
    pub tools: ToolSet,
}

/// A store, resolved. A gateway holds those of ten thousand tenants: texts are shared, not copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreEntry {
    /// Name in Unicode's form NFC, unique in the tenant.
    pub name: Arc<str>,
    /// For people; the name where the spec gives none.
    pub display_name: Arc<str>,
}

/// The stores of a tenant in the order of their IDs. A map's nodes have room for eleven entries, most tenants have fewer
/// stores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stores {
    by_id: Box<[(Uuid, StoreEntry)]>,
    /// Places in `by_id`, in the order of the names.
    by_name: Box<[u16]>,
}

impl Stores {
    fn new(by_id: BTreeMap<Uuid, StoreEntry>) -> Self {
        let by_id: Box<[_]> = by_id.into_iter().collect();
        let mut by_name: Box<[u16]> = (0..=u16::MAX).take(by_id.len()).collect();
        by_name.sort_by(|a, b| by_id[usize::from(*a)].1.name.cmp(&by_id[usize::from(*b)].1.name));
        Self { by_id, by_name }
    }

    /// Number of stores.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none, which a compiled spec excludes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// All of them, by ID.
    pub fn iter(&self) -> impl Iterator<Item = (&Uuid, &StoreEntry)> {
        self.by_id.iter().map(|(id, store)| (id, store))
    }

    /// Their IDs.
    pub fn ids(&self) -> impl Iterator<Item = &Uuid> {
        self.by_id.iter().map(|(id, _)| id)
    }

    /// The store of this ID.
    #[must_use]
    pub fn get(&self, id: &Uuid) -> Option<&StoreEntry> {
        let at = self.by_id.binary_search_by(|(known, _)| known.cmp(id)).ok()?;
        Some(&self.by_id[at].1)
    }

    fn named(&self, name: &str) -> Option<Uuid> {
        let at = self.by_name.binary_search_by(|at| (*self.by_id[usize::from(*at)].1.name).cmp(name)).ok()?;
        Some(self.by_id[usize::from(self.by_name[at])].0)
    }
}

/// The checked form of a spec: what the gateway computes scopes from and the operator reconciles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRules {
    tenant_id: TenantId,
    directory: Uuid,
    stores: Stores,
    rules: Box<[Rule]>,
}

impl TenantRules {
    /// Checks a spec and resolves store names.
    ///
    /// # Errors
    /// Every problem found, so that one round of editing repairs them all.
    pub fn compile(spec: &RetailTenantSpec) -> Result<Self, Vec<SpecProblem>> {
        let mut problems = Problems::default();
        let tenant_id = spec.tenant_id.parse::<TenantId>();
        if let Err(error) = &tenant_id {
            problems.add("spec.tenantId", error.to_string());
        }
        let directory = problems.guid("spec.entra.tenantId", &spec.entra.tenant_id);
        let (stores, by_name) = compile_stores(spec, &mut problems);
        let mut names = BTreeSet::new();
        let mut rules = Vec::with_capacity(spec.principals.len());
        if spec.principals.len() > PRINCIPALS_MAX {
            problems.add("spec.principals", format!("at most {PRINCIPALS_MAX} rules are expected"));
        }
        let bytes: usize = spec.principals.iter().flat_map(|rule| &rule.stores).map(String::len).sum();
        if bytes > RULES_BYTES_MAX {
            let problem = format!(
                "all names together have {bytes} bytes, {RULES_BYTES_MAX} are possible, so that etcd can hold the object; \
                 give rules for the whole tenant the role HeadOffice, or shorten the stores' names"
            );
            problems.add("spec.principals[].stores", problem);
        }
        for (i, principal) in spec.principals.iter().enumerate() {
            let field = format!("spec.principals[{i}]");
            if !names.insert(&principal.name) {
                problems.add(&format!("{field}.name"), format!("'{}' stands twice", principal.name));
            }
            rules.extend(compile_rule(&field, principal, &by_name, &mut problems));
        }
        match (tenant_id, directory) {
            (Ok(tenant_id), Some(directory)) if problems.0.is_empty() => {
                Ok(Self { tenant_id, directory, stores: Stores::new(stores), rules: rules.into() })
            }
            _ => Err(problems.0),
        }
    }

    /// The tenant's identifier.
    #[must_use]
    pub const fn tenant_id(&self) -> &TenantId {
        &self.tenant_id
    }

    /// The Entra tenant whose tokens are accepted.
    #[must_use]
    pub const fn directory(&self) -> Uuid {
        self.directory
    }

    /// Stores by ID.
    #[must_use]
    pub const fn stores(&self) -> &Stores {
        &self.stores
    }

    /// The principal rules in the order of the spec.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The store whose name or lower-case UUID is `text`: no wildcard, no case folding, no trimming. A name may come in
    /// another of Unicode's normal forms.
    #[must_use]
    pub fn store_by_name_or_id(&self, text: &str) -> Option<Uuid> {
        self.stores.named(&normalised(text)).or_else(|| {
            let id = Uuid::try_parse(text).ok()?;
            (self.stores.get(&id).is_some() && id.hyphenated().to_string() == text).then_some(id)
        })
    }
}
