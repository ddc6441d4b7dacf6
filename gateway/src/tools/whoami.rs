//! `whoami`.

use futures::future::BoxFuture;
use jiff::Timestamp;
use rmcp::model::{JsonObject, Tool as Definition};
use serde_json::json;

use super::{Caller, Services, Tool, ToolError, ToolOutput, definition, fields, kind, list, stores};

/// Tells who the token is as the gateway sees it.
pub struct Whoami(Definition);

impl Default for Whoami {
    fn default() -> Self {
        Self(definition(
            "whoami",
            "Who you are here",
            "Tells who you are as the gateway sees your token: the tenant, your role, the stores you answer for, the tools you may \
             use, the rules that granted them, the limits of your statements and when the token expires. Call it when rows seem to be missing.",
            fields([]),
            fields([
                ("tenantId", kind("string")),
                ("tenantName", kind("string")),
                ("directoryId", kind("string")),
                ("objectId", kind("string")),
                ("role", kind("string")),
                ("rules", list("string")),
                ("stores", list("string")),
                ("tools", list("string")),
                ("limits", kind("object")),
                ("expires", kind("string")),
            ]),
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
        _: JsonObject,
    ) -> BoxFuture<'a, Result<ToolOutput, ToolError>> {
        Box::pin(async move {
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
