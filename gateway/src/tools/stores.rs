//! `list_stores`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use storefence_tenancy::{names::folded, resource::Role, rules::StoreEntry};
use uuid::Uuid;

use super::{Caller, Code, Services, ToolError, typed::TypedTool};

/// Names the stores that the caller answers for.
pub struct ListStores;

#[derive(Deserialize, JsonSchema)]
pub struct Arguments {}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stores {
    tenant_id: String,
    tenant_name: String,
    #[schemars(with = "String")]
    role: Role,
    stores: Vec<Store>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Store {
    name: String,
    display_name: String,
    #[schemars(with = "String")]
    store_id: Uuid,
}

impl TypedTool for ListStores {
    const NAME: &'static str = "list_stores";
    const TITLE: &'static str = "Stores you answer for";
    const DESCRIPTION: &'static str = "Lists the stores whose rows you can see, with name and store_id. Use the store_id to filter tables in execute_sales_query; rows of other stores are never visible.";
    const REST: &'static str = "execute_sales_query pages through retail.stores";
    type Answer = Stores;
    type Arguments = Arguments;

    async fn run(&self, _: &Services, caller: &Caller, _: Arguments) -> Result<Stores, ToolError> {
        let (tenant, scope) = (&caller.tenant, &caller.scope);
        let stores = in_scope(caller).into_iter().map(|(id, store)| Store {
            name: store.name.to_string(),
            display_name: store.display_name.to_string(),
            store_id: *id,
        });
        Ok(Stores {
            tenant_id: tenant.id().as_str().to_owned(),
            tenant_name: tenant.display_name.to_string(),
            role: scope.role(),
            stores: stores.collect(),
        })
    }
}

/// The stores in the caller's scope, by name.
pub fn in_scope(caller: &Caller) -> Vec<(&Uuid, &StoreEntry)> {
    let all = caller.tenant.rules.stores().iter();
    let mut stores: Vec<_> = all.filter(|(id, _)| caller.scope.stores().contains(id)).collect();
    stores.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    stores
}

/// The stores that a text means: one, or none where it says that all are meant.
pub fn chosen(caller: &Caller, text: &str) -> Result<Option<Uuid>, ToolError> {
    match named(caller, text) {
        Ok((id, _)) => Ok(Some(*id)),
        Err(_) if ["*", "all", "any", "all stores"].iter().any(|all| text.trim().eq_ignore_ascii_case(all)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The store of this name or display name (in any case) or id, if it is in the caller's scope. One that exists elsewhere and
/// one that does not exist are the same error.
pub fn named<'a>(caller: &'a Caller, text: &str) -> Result<(&'a Uuid, &'a StoreEntry), ToolError> {
    let wanted = text.trim();
    let id = Uuid::try_parse(wanted).ok();
    let stores = in_scope(caller);
    // No two stores of a tenant have names that fold to the same.
    let alike = folded(wanted);
    let by_name = stores.iter().find(|(known, store)| id == Some(**known) || folded(&store.name) == alike);
    let mut by_display_name = stores.iter().filter(|(_, store)| folded(&store.display_name) == alike);
    let found = match (by_name, by_display_name.next(), by_display_name.next()) {
        (Some(store), _, _) | (None, Some(store), None) => Some(store),
        // Several of one display name: nobody knows which is meant.
        _ => None,
    };
    found.copied().ok_or_else(|| {
        let shown: String = wanted.chars().take(64).collect();
        let names: Vec<_> = stores.iter().map(|(_, store)| &*store.name).collect();
        let message = format!("store {shown:?} is none of yours; you answer for {}", names.join(", "));
        ToolError::new(Code::Authorization, message)
    })
}
