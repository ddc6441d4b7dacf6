//! A `RetailTenant`'s spec, checked and resolved into what runs.
//!
//! The API server has applied the same checks at admission (schema and CEL); here they hold for objects that came
//! another way: stored before a rule was tightened, or read from a directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use uuid::Uuid;

use crate::{
    TenantId,
    resource::{PrincipalRule, RetailTenantSpec, Role, STORES_MAX, ToolName, UNTRUSTED_CLAIMS},
};

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

/// A store, resolved. A gateway holds those of ten thousand chains: texts are shared, not copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreEntry {
    /// Name, unique in the tenant.
    pub name: Arc<str>,
    /// For people; the name where the spec gives none.
    pub display_name: Arc<str>,
}

/// The stores of a tenant in the order of their IDs. A map's nodes have room for eleven entries, most chains have fewer
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
    /// Every problem found, so that one round of editing mends them all.
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

    /// The store whose name or lower-case UUID is exactly `text`: no wildcard, no case folding, no trimming.
    #[must_use]
    pub fn store_by_name_or_id(&self, text: &str) -> Option<Uuid> {
        self.stores.named(text).or_else(|| {
            let id = Uuid::try_parse(text).ok()?;
            (self.stores.get(&id).is_some() && id.hyphenated().to_string() == text).then_some(id)
        })
    }
}

fn compile_stores(
    spec: &RetailTenantSpec,
    problems: &mut Problems,
) -> (BTreeMap<Uuid, StoreEntry>, BTreeMap<String, Uuid>) {
    let mut stores = BTreeMap::new();
    let mut by_name = BTreeMap::new();
    if spec.stores.is_empty() || spec.stores.len() > STORES_MAX {
        problems.add("spec.stores", format!("1 to {STORES_MAX} stores are expected"));
    }
    for (i, store) in spec.stores.iter().enumerate() {
        let Some(id) = problems.guid(&format!("spec.stores[{i}].id"), &store.id) else { continue };
        if store.name.is_empty() || Uuid::try_parse(&store.name).is_ok() {
            problems.add(&format!("spec.stores[{i}].name"), "a name that is not a UUID is expected".to_owned());
        }
        let name: Arc<str> = store.name.as_str().into();
        let display_name = match &store.display_name {
            Some(text) if **text != *name => text.as_str().into(),
            _ => name.clone(),
        };
        if by_name.insert(store.name.clone(), id).is_some() {
            problems.add(&format!("spec.stores[{i}].name"), format!("'{}' stands twice", store.name));
        }
        if stores.insert(id, StoreEntry { name, display_name }).is_some() {
            problems.add(&format!("spec.stores[{i}].id"), format!("'{id}' stands twice"));
        }
    }
    (stores, by_name)
}

fn compile_rule(
    field: &str,
    principal: &PrincipalRule,
    by_name: &BTreeMap<String, Uuid>,
    problems: &mut Problems,
) -> Option<Rule> {
    let PrincipalRule {
        name,
        role,
        entra_group,
        entra_user,
        entra_application,
        app_role,
        claim,
        stores_from_claim,
        stores,
        tools,
    } = principal;
    let mut selectors = Vec::new();
    if let Some(id) = entra_user {
        selectors.extend(problems.guid(&format!("{field}.entraUser"), id).map(Selector::User));
    }
    if let Some(id) = entra_application {
        selectors.extend(problems.guid(&format!("{field}.entraApplication"), id).map(Selector::Application));
    }
    if let Some(id) = entra_group {
        let id = problems.guid(&format!("{field}.entraGroup"), id);
        selectors.extend(id.map(|id| Selector::Group(id.hyphenated().to_string())));
    }
    selectors.extend(app_role.clone().map(Selector::AppRole));
    if let Some(claim) = claim {
        problems.trusted_claim(&format!("{field}.claim.name"), &claim.name);
        selectors.push(Selector::Claim { name: claim.name.clone(), value: claim.value.clone() });
    }
    if let Some(name) = stores_from_claim {
        problems.trusted_claim(&format!("{field}.storesFromClaim"), name);
        selectors.push(Selector::StoresFromClaim(name.clone()));
    }
    let given = [entra_user.is_some(), entra_group.is_some(), app_role.is_some(), claim.is_some()];
    let given = given
        .into_iter()
        .chain([stores_from_claim.is_some(), entra_application.is_some()])
        .filter(|given| *given)
        .count();
    if given != 1 {
        let choice =
            "exactly one of entraGroup, entraUser, entraApplication, appRole, claim and storesFromClaim is expected";
        problems.add(field, format!("{choice}; {given} are given"));
    }
    let mut ids = BTreeSet::new();
    for store in stores {
        match by_name.get(store) {
            Some(id) => drop(ids.insert(*id)),
            None => problems.add(&format!("{field}.stores"), format!("'{store}' is not a name in spec.stores")),
        }
    }
    let from_claim = stores_from_claim.is_some();
    let grant = match (role, from_claim) {
        (Role::HeadOffice, true) => {
            problems.add(&format!("{field}.storesFromClaim"), "HeadOffice sees all stores already".to_owned());
            Grant::AllStores
        }
        (Role::HeadOffice, false) => Grant::AllStores,
        (_, true) => Grant::FromClaim,
        (_, false) => Grant::Stores(ids.into_iter().collect()),
    };
    match grant {
        Grant::AllStores | Grant::FromClaim if !stores.is_empty() => {
            let why = if from_claim { "storesFromClaim names the stores" } else { "HeadOffice sees all stores" };
            problems.add(&format!("{field}.stores"), format!("must be empty: {why}"));
        }
        Grant::Stores(_) if stores.is_empty() => {
            problems.add(&format!("{field}.stores"), format!("at least one store is expected for {role}"));
        }
        _ => {}
    }
    let tools = compile_tools(field, tools.as_deref(), problems);
    let selector = selectors.into_iter().next()?;
    Some(Rule { name: name.as_str().into(), role: *role, selector, grant, tools })
}

fn compile_tools(field: &str, tools: Option<&[String]>, problems: &mut Problems) -> ToolSet {
    let Some(names) = tools else { return ToolSet::All };
    if names.is_empty() {
        problems
            .add(&format!("{field}.tools"), "at least one tool is expected; all are granted where it is absent".into());
    }
    let mut granted = BTreeSet::new();
    for (i, name) in names.iter().enumerate() {
        match ToolName::named(name) {
            Some(tool) if granted.insert(tool) => {}
            Some(_) => problems.add(&format!("{field}.tools[{i}]"), format!("'{name}' stands twice")),
            None if ToolName::EVERYBODYS.contains(&name.as_str()) => {
                problems.add(&format!("{field}.tools[{i}]"), format!("remove '{name}': every caller has it"));
            }
            None => {
                let known = ToolName::ALL.map(ToolName::as_str).join(", ");
                problems.add(&format!("{field}.tools[{i}]"), format!("'{name}' is none of the tools {known}"));
            }
        }
    }
    ToolSet::Some(granted)
}

#[derive(Default)]
struct Problems(Vec<SpecProblem>);

impl Problems {
    fn add(&mut self, field: &str, problem: String) {
        self.0.push(SpecProblem { field: field.to_owned(), problem });
    }

    fn guid(&mut self, field: &str, text: &str) -> Option<Uuid> {
        let id = Uuid::try_parse(text).ok().filter(|id| id.hyphenated().to_string() == text);
        if id.is_none() {
            self.add(field, format!("'{text}' is not a lower-case UUID such as 2f4e6d8c-1a3b-5c7e-9f0a-b2d4f6e8c0a2"));
        }
        id
    }

    fn trusted_claim(&mut self, field: &str, name: &str) {
        if let Some((_, instead)) = UNTRUSTED_CLAIMS.iter().find(|(claim, _)| *claim == name) {
            self.add(field, format!("the claim '{name}' cannot grant access: {instead}"));
        }
    }
}
