//! `list_stores`.

use futures::future::BoxFuture;
use rmcp::model::{JsonObject, Tool as Definition};
use serde_json::json;

use super::{Caller, Services, Tool, ToolError, ToolOutput, arguments::Fields, definition};

/// Names the stores that the caller answers for.
pub struct ListStores(Definition);

impl Default for ListStores {
    fn default() -> Self {
        Self(definition(
            "list_stores",
            "Stores you answer for",
            "Lists the stores whose rows you can see, with name and store_id. Use the store_id to filter tables in execute_sales_query; rows of other stores are never visible.",
            json!({"type": "object", "properties": {}, "additionalProperties": false}),
            json!({
                "type": "object",
                "properties": {
                    "tenantId": {"type": "string", "description": "Identifier of the retail chain"},
                    "tenantName": {"type": "string"},
                    "role": {"type": "string", "enum": ["StoreManager", "RegionalManager", "HeadOffice"]},
                    "stores": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "storeId": {"type": "string", "description": "UUID; store_id in the tables"},
                                "name": {"type": "string"},
                                "displayName": {"type": "string"},
                            },
                            "required": ["storeId", "name", "displayName"],
                        },
                    },
                },
                "required": ["tenantId", "tenantName", "role", "stores"],
            }),
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
        arguments: JsonObject,
    ) -> BoxFuture<'a, Result<ToolOutput, ToolError>> {
        Box::pin(async move {
            Fields::new(arguments, &[])?;
            let (tenant, scope) = (&caller.tenant, &caller.scope);
            let mut stores: Vec<_> =
                tenant.rules.stores().iter().filter(|(id, _)| scope.stores().contains(id)).collect();
            stores.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
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
