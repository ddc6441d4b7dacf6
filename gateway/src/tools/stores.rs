//! `list_stores`.

use futures::future::BoxFuture;
use rmcp::model::{JsonObject, Tool as Definition};
use serde_json::json;
use storefence_tenancy::{names::folded, rules::StoreEntry};
use uuid::Uuid;

use super::{Caller, Code, Services, Tool, ToolError, ToolOutput, definition, fields, kind, list};

/// Names the stores that the caller answers for.
pub struct ListStores(Definition);

impl Default for ListStores {
    fn default() -> Self {
        Self(definition(
            "list_stores",
            "Stores you answer for",
            "Lists the stores whose rows you can see, with name and store_id. Use the store_id to filter tables in execute_sales_query; rows of other stores are never visible.",
            fields([]),
            fields([
                ("tenantId", kind("string")),
                ("tenantName", kind("string")),
                ("role", kind("string")),
                ("stores", list("object")),
            ]),
        ))
    }
}

impl Tool for ListStores {
    fn definition(&self) -> &Definition {
        &self.0
    }

    fn call<'a>(
        &'a self,
        _: &'a Services,
        caller: &'a Caller,
        _: JsonObject,
    ) -> BoxFuture<'a, Result<ToolOutput, ToolError>> {
        Box::pin(async move {
            let (tenant, scope) = (&caller.tenant, &caller.scope);
            let stores = in_scope(caller);
            let lines: Vec<_> = stores.iter().map(|(id, store)| format!("{}\t{id}", store.name)).collect();
            let stores: Vec<_> = stores
                .iter()
                .map(|(id, store)| json!({"storeId": id, "name": store.name, "displayName": store.display_name}))
                .collect();
            let structured = json!({
                "tenantId": tenant.id().as_str(), "tenantName": tenant.display_name, "role": scope.role(), "stores": stores,
            });
            let text = format!("{} ({})\nname\tstore_id\n{}", tenant.display_name, scope.role(), lines.join("\n"));
            Ok(ToolOutput { structured: structured.to_string(), text })
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
