//! How large the object becomes in etcd.

use serde_json::Value;
use storefence_tenancy::rules::SpecProblem;

use super::problem;

/// What etcd takes in one request by default (`--max-request-bytes`).
const ETCD_MAX: usize = 1_572_864;
/// Room for the status, its managed fields, and the key.
const RESERVED: usize = 96 * 1024;
/// Longest annotations of an object, all together. `kubectl apply` without `--server-side` keeps the whole manifest in one.
const ANNOTATIONS_MAX: usize = 262_144;

/// Adds a problem where etcd would refuse the object, and a note where `kubectl apply` would.
pub fn check(document: &Value, schema: &Value, problems: &mut Vec<SpecProblem>, notes: &mut Vec<String>) {
    let own = document.to_string().len();
    let total = own + managed(document, schema) + RESERVED;
    if total > ETCD_MAX {
        let text = format!(
            "the object takes about {total} bytes with the server's records of who set which field, and etcd takes \
             {ETCD_MAX} in one request: use shorter names, or HeadOffice for rules that name most stores"
        );
        problems.push(problem("(object)", text));
    } else if own > ANNOTATIONS_MAX {
        notes.push(format!(
            "{own} bytes are more than kubectl apply can keep in its annotation ({ANNOTATIONS_MAX}): use kubectl apply \
             --server-side, or kubectl create and kubectl replace"
        ));
    }
}

/// Bytes of `metadata.managedFields` for one manager that sets all of it.
fn managed(value: &Value, schema: &Value) -> usize {
    const DOT: usize = r#"".":{},"#.len();
    match value {
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                // "f:name":{…},
                name.len() + 8 + managed(value, &schema["properties"][name])
            };
            DOT + fields.iter().map(field).sum::<usize>()
        }
        Value::Array(items) if schema["x-kubernetes-list-type"] == "map" => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().map(Vec::as_slice).unwrap_or_default();
            let item = |item: &Value| {
                // "k:{\"key\":\"value\"}":{…},
                let key = |key: &Value| {
                    key.as_str().map_or(0, str::len) + item[key.as_str().unwrap_or_default()].to_string().len() + 8
                };
                10 + keys.iter().map(key).sum::<usize>() + managed(item, &schema["items"])
            };
            DOT + items.iter().map(item).sum::<usize>()
        }
        Value::Array(items) if schema["x-kubernetes-list-type"] == "set" => {
            // "v:\"value\"":{},
            DOT + items.iter().map(|item| item.to_string().len() + 10).sum::<usize>()
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use storefence_tenancy::{
        RetailTenantSpec, TenantRules,
        resource::{RULES_BYTES_MAX, STORES_BYTES_MAX},
    };

    use super::super::Checker;

    /// The largest object whose names the rules admit: it must fit into etcd, with two managers of the whole spec.
    #[test]
    fn the_largest_object_that_the_schema_admits_fits() {
        let name = |n: usize| format!("{n:03}{}", "x".repeat(60));
        let per_store = STORES_BYTES_MAX / 500 - 63;
        let store = |n: usize| json!({"name": name(n), "id": format!("{n:08x}-0000-4000-8000-000000000000"), "displayName": "d".repeat(per_store.min(200))});
        let each = RULES_BYTES_MAX / 64 / 63;
        let rule = |n: usize| {
            json!({"name": format!("{}-{n}", "r".repeat(59)), "role": "RegionalManager", "appRole": "a".repeat(120),
                   "stores": (0..each).map(name).collect::<Vec<_>>(),
                   "tools": ["execute_sales_query", "get_multiple_table_schemas", "get_product_recommendations",
                             "get_store_performance", "semantic_search_products"]})
        };
        let document = json!({
            "apiVersion": "retail.storefence.dev/v1alpha1", "kind": "RetailTenant", "metadata": {"name": "x".repeat(253)},
            "spec": {
                "tenantId": "zava", "entra": {"tenantId": "7d1c9a52-3b64-4f0e-8c21-5a9e0b7f4d13"},
                "databaseRef": {"name": "retail"}, "keyVaultRef": {"name": "main"},
                "stores": (0..500).map(store).collect::<Vec<_>>(), "principals": (0..64).map(rule).collect::<Vec<_>>(),
            },
        });
        let spec: RetailTenantSpec = serde_json::from_value(document["spec"].clone()).unwrap();
        assert!(TenantRules::compile(&spec).is_ok());
        let checker = Checker::new();
        let own = document.to_string().len();
        let managed = super::managed(&document, &checker.schema);
        println!("{own} bytes, {managed} of managed fields");
        assert!(own + 2 * managed + super::RESERVED < super::ETCD_MAX, "{own} + 2 x {managed}");
        let checked = checker.check(1, document);
        assert!(checked.problems.is_empty() && checked.notes.len() == 1, "{:?}", checked.problems);
    }
}
