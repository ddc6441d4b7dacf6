//! The key of a cached response: everything that the response depends on. Any change gives another key, so correctness
//! needs no invalidation.

use rmcp::model::JsonObject;
use serde_json::Value;
use sha2::{Digest, Sha256};
use storefence_tenancy::scope::StoreSet;

use crate::caller::Caller;

/// SHA-256 over fields, each preceded by its length: different lists of fields cannot give the same input.
pub struct Fields(Sha256);

impl Fields {
    /// A digest for one purpose.
    pub fn new(purpose: &str) -> Self {
        let mut fields = Self(Sha256::new());
        fields.add(purpose.as_bytes());
        fields
    }

    pub fn add(&mut self, field: &[u8]) {
        self.0.update((field.len() as u64).to_be_bytes());
        self.0.update(field);
    }

    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// The caller's scope in the tenant as it is now: role, stores with their names, credentials, limits. Two principals
/// have the same scope key exactly if every statement gives both the same result.
pub fn scope(caller: &Caller) -> [u8; 32] {
    let (tenant, scope) = (&caller.tenant, &caller.scope);
    let mut fields = Fields::new(concat!("scope ", env!("CARGO_PKG_VERSION")));
    for text in [tenant.id().as_str(), &tenant.database, &tenant.vault, scope.role().as_str()] {
        fields.add(text.as_bytes());
    }
    // What the rules grant counts, not the rules themselves. All stores means the current stores.
    fields.add(match scope.stores() {
        StoreSet::All => b"all",
        StoreSet::Some(_) => b"some",
    });
    let mut stores: Vec<_> = tenant.rules.stores().iter().filter(|(id, _)| scope.stores().contains(id)).collect();
    stores.sort_by_key(|(id, _)| **id);
    for (id, store) in stores {
        fields.add(id.as_bytes());
        fields.add(store.name.as_bytes());
    }
    // A rotation of login or key starts anew: responses fetched with the former ones are not served any more.
    fields.add(format!("{:?}", tenant.credentials).as_bytes());
    fields.add(format!("{:?}", tenant.limits).as_bytes());
    fields.finish()
}

/// The key of one response: of this tool, with these arguments, for what the fence showed (`pulse`).
pub fn answer(scope: &[u8; 32], pulse: &[u8; 32], model: &str, tool: &str, arguments: &JsonObject) -> [u8; 32] {
    let mut fields = Fields::new("answer");
    fields.add(scope);
    fields.add(pulse);
    fields.add(model.as_bytes());
    fields.add(tool.as_bytes());
    // Sorted here rather than relying on the map, whose order depends on features of serde_json. A null counts as an
    // argument left out.
    let mut given: Vec<_> = arguments.iter().filter(|(_, value)| !value.is_null()).collect();
    given.sort_by_key(|(name, _)| name.as_str());
    for (name, value) in given {
        fields.add(name.as_bytes());
        fields.add(Value::to_string(value).as_bytes());
    }
    fields.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Fields, answer};

    #[test]
    fn fields_do_not_run_together() {
        let digest = |texts: &[&str]| {
            let mut fields = Fields::new("test");
            texts.iter().for_each(|text| fields.add(text.as_bytes()));
            fields.finish()
        };
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
        assert_ne!(digest(&["a"]), digest(&["a", ""]));
    }

    #[test]
    fn arguments_count_whatever_their_order() {
        let key = |tool: &str, pulse: u8, arguments: Value| {
            answer(&[1; 32], &[pulse; 32], "model", tool, arguments.as_object().expect("an object"))
        };
        let known = key("t", 1, json!({"a": 1, "b": ["x"]}));
        assert_eq!(known, key("t", 1, json!({"b": ["x"], "a": 1, "c": null})));
        for other in [
            key("u", 1, json!({"a": 1, "b": ["x"]})),
            key("t", 2, json!({"a": 1, "b": ["x"]})),
            key("t", 1, json!({"a": 1, "b": ["y"]})),
            key("t", 1, json!({"a": "1", "b": ["x"]})),
            key("t", 1, json!({"a": 1})),
        ] {
            assert_ne!(known, other);
        }
    }
}
