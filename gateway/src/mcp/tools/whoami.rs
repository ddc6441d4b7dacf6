//! `whoami`.

use futures::future::BoxFuture;
use jiff::Timestamp;
use rmcp::model::{JsonObject, Tool as Definition};
use serde_json::json;

use super::{Caller, Services, Tool, ToolError, ToolOutput, arguments::Fields, definition, stores};

/// Tells who the token is as the gateway sees it.
pub struct Whoami(Definition);

impl Default for Whoami {
    fn default() -> Self {
        let text = |description: &str| json!({"type": "string", "description": description});
        let texts =
            |description: &str| json!({"type": "array", "items": {"type": "string"}, "description": description});
        Self(definition(
            "whoami",
            "Who you are here",
            "Tells who you are as the gateway sees your token: the chain, your role, the stores you answer for, the tools you may \
             use, the rules that granted them, the limits of your statements and when the token expires. Call it when rows seem to be missing.",
            json!({"type": "object", "properties": {}, "additionalProperties": false}),
            json!({
                "type": "object",
                "properties": {
                    "tenantId": text("Identifier of the retail chain"),
                    "tenantName": text("Name of the retail chain"),
                    "directoryId": text("Entra tenant of the token (tid)"),
                    "objectId": text("Your object in it (oid)"),
                    "role": {"type": "string", "enum": ["StoreManager", "RegionalManager", "HeadOffice"]},
                    "rules": texts("Principal rules that match the token"),
                    "stores": texts("Names of the stores whose rows you see"),
                    "tools": texts("Names of the tools you may use; tools/list describes them"),
                    "limits": {"type": "object", "properties": {
                        "maxRows": {"type": "integer", "description": "Most rows of an answer"},
                        "maxResultBytes": {"type": "integer", "description": "Most bytes of an answer's rows"},
                        "statementTimeoutSeconds": {"type": "number", "description": "Longest run of a statement"},
                    }, "required": ["maxRows", "maxResultBytes", "statementTimeoutSeconds"]},
                    "expires": text("When the token expires, ISO 8601, UTC"),
                },
                "required": ["tenantId", "tenantName", "directoryId", "objectId", "role", "rules", "stores", "tools", "limits", "expires"],
            }),
        ))
    }
}

impl Tool for Whoami {
    fn definition(&self) -> &Definition {
        &self.0
    }

    fn call<'a>(
        &'a self,
        services: &'a Services,
        caller: &'a Caller,
        arguments: JsonObject,
    ) -> BoxFuture<'a, Result<ToolOutput, ToolError>> {
        Box::pin(async move {
            Fields::new(arguments, &[])?;
            let (tenant, scope, claims) = (&caller.tenant, &caller.scope, &caller.principal.claims);
            let stores: Vec<_> = stores::in_scope(caller).into_iter().map(|(_, store)| &*store.name).collect();
            let tools: Vec<_> = services.tools.granted(scope).map(Tool::name).collect();
            let expires = i64::try_from(caller.principal.expires()).unwrap_or(i64::MAX);
            let expires = Timestamp::from_second(expires).unwrap_or(Timestamp::MAX);
            let limits = tenant.limits;
            let text = format!(
                "{} at {} ({}), stores: {}; rules: {}; answers up to {} rows, statements up to {} s; tools: {}; token until {expires}",
                scope.role(),
                tenant.display_name,
                tenant.id(),
                stores.join(", "),
                scope.rules().join(", "),
                limits.max_rows,
                limits.timeout.as_secs_f64(),
                tools.join(", "),
            );
            let structured = json!({
                "tenantId": tenant.id().as_str(), "tenantName": tenant.display_name, "directoryId": claims.tid,
                "objectId": claims.oid, "role": scope.role(), "rules": scope.rules(), "stores": stores, "tools": tools,
                "limits": {"maxRows": limits.max_rows, "maxResultBytes": limits.max_bytes,
                           "statementTimeoutSeconds": limits.timeout.as_secs_f64()},
                "expires": expires.to_string(),
            });
            Ok(ToolOutput { structured: structured.to_string(), text })
        })
    }
}
