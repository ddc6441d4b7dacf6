//! The checks of a spec's parts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use uuid::Uuid;

use super::{Grant, Rule, Selector, SpecProblem, StoreEntry, ToolSet};
use crate::{
    names::{self, normalised},
    resource::{
        PrincipalRule, RetailTenantSpec, Role, STORES_BYTES_MAX, STORES_MAX, Store, ToolName, UNTRUSTED_CLAIMS,
    },
};

/// The stores by ID, and their IDs by name.
pub(super) fn compile_stores(
    spec: &RetailTenantSpec,
    problems: &mut Problems,
) -> (BTreeMap<Uuid, StoreEntry>, BTreeMap<String, Uuid>) {
    let mut stores = BTreeMap::new();
    let mut by_name = BTreeMap::new();
    let mut alike = BTreeMap::new();
    if spec.stores.is_empty() || spec.stores.len() > STORES_MAX {
        problems.add("spec.stores", format!("1 to {STORES_MAX} stores are expected"));
    }
    let texts = |store: &Store| store.name.len() + store.display_name.as_ref().map_or(0, String::len);
    let bytes: usize = spec.stores.iter().map(texts).sum();
    if bytes > STORES_BYTES_MAX {
        let problem = format!(
            "names and display names together have {bytes} bytes, {STORES_BYTES_MAX} are possible, so that etcd can hold the \
             object"
        );
        problems.add("spec.stores", problem);
    }
    for (i, store) in spec.stores.iter().enumerate() {
        let Some(id) = problems.guid(&format!("spec.stores[{i}].id"), &store.id) else { continue };
        let field = format!("spec.stores[{i}].name");
        if Uuid::try_parse(&store.name).is_ok() {
            problems.add(&field, "a name that is not a UUID is expected".to_owned());
        }
        if let Err(problem) = names::check(&store.name) {
            problems.add(&field, format!("'{}' {problem}", store.name));
        }
        let name: Arc<str> = normalised(&store.name).as_ref().into();
        let display_name = match &store.display_name {
            Some(text) if **text != *name => text.as_str().into(),
            _ => name.clone(),
        };
        match alike.insert(names::folded(&name), (i, name.clone())) {
            Some((_, other)) if other == name => problems.add(&field, format!("'{name}' stands twice")),
            Some((at, other)) => {
                let problem = format!(
                    "'{name}' looks like '{other}' of spec.stores[{at}]: give one of them a name that is different to the eye"
                );
                problems.add(&field, problem);
            }
            None => {}
        }
        by_name.insert(name.to_string(), id);
        let entry = StoreEntry { name: name.clone(), display_name };
        if let Some(StoreEntry { name: other, .. }) = stores.insert(id, entry) {
            let problem = format!("'{id}' stands twice: the stores '{other}' and '{name}' have it");
            problems.add(&format!("spec.stores[{i}].id"), problem);
        }
    }
    (stores, by_name)
}

pub(super) fn compile_rule(
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
        selectors.push(Selector::Claim { name: claim.name.clone(), value: normalised(&claim.value).into_owned() });
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
    let (mut ids, mut named) = (BTreeSet::new(), BTreeSet::new());
    for (i, store) in stores.iter().enumerate() {
        let store = normalised(store);
        match by_name.get(&*store) {
            Some(id) if named.insert(store.clone()) => drop(ids.insert(*id)),
            Some(_) => problems.add(&format!("{field}.stores[{i}]"), format!("rule '{name}' names '{store}' twice")),
            None => {
                let problem = format!("rule '{name}' names the store '{store}', which is not a name in spec.stores");
                problems.add(&format!("{field}.stores[{i}]"), problem);
            }
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
pub(super) struct Problems(pub(super) Vec<SpecProblem>);

impl Problems {
    pub(super) fn add(&mut self, field: &str, problem: String) {
        self.0.push(SpecProblem { field: field.to_owned(), problem });
    }

    pub(super) fn guid(&mut self, field: &str, text: &str) -> Option<Uuid> {
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
