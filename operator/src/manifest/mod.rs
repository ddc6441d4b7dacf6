//! A manifest of RetailTenants, checked without a cluster: the schema as the API server applies it, its CEL rules, and the
//! operator's own rules, which no API server can apply.

mod schema;
mod size;

use kube::core::cel::Validator;
use serde_json::Value;
use storefence_tenancy::{
    RetailTenantSpec, TenantRules,
    resource::{GROUP, crd},
    rules::SpecProblem,
};

/// The version that this operator reads.
const VERSION: &str = "v1alpha1";
const KIND: &str = "RetailTenant";
/// Longest name of an object.
const NAME_MAX: usize = 253;

/// Why a text is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not YAML.
    #[error("{0}")]
    Yaml(String),
    /// Nothing to check.
    #[error("no RetailTenant stands in it")]
    Empty,
}

/// One document that is a RetailTenant, and what is wrong with it.
#[derive(Debug)]
pub struct Checked {
    pub document: Value,
    /// Which document of the text, from 1.
    pub number: usize,
    /// `metadata.name`, as far as there is one.
    pub name: Option<String>,
    /// All of it; empty where the object would be admitted and served.
    pub problems: Vec<SpecProblem>,
    /// What is worth knowing and no error.
    pub notes: Vec<String>,
}

/// Checks every RetailTenant of a YAML or JSON text. Documents of other kinds are left out.
///
/// # Errors
/// [`ManifestError`].
pub fn check(text: &str) -> Result<Vec<Checked>, ManifestError> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| ManifestError::Yaml(error.to_string()))?;
    let documents = documents.into_iter().flat_map(items);
    let checker = Checker::new();
    // What has no kind is checked too: it is a manifest whose first lines went missing.
    let ours = |document: &Value| document.get("kind").is_none_or(|kind| kind == KIND);
    let numbered = documents.enumerate().filter(|(_, document)| !document.is_null() && ours(document));
    let checked: Vec<Checked> = numbered.map(|(n, document)| checker.check(n + 1, document)).collect();
    if checked.is_empty() { Err(ManifestError::Empty) } else { Ok(checked) }
}

/// The items of a `List`, which `kubectl get` prints; any other document is one item.
fn items(document: Value) -> Vec<Value> {
    match document {
        Value::Object(mut fields)
            if fields.get("kind").is_some_and(|kind| kind == "List" || kind == "RetailTenantList") =>
        {
            match fields.remove("items") {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            }
        }
        document => vec![document],
    }
}

struct Checker {
    schema: Value,
    rules: Validator,
}

impl Checker {
    fn new() -> Self {
        let crd = serde_json::to_value(crd()).unwrap_or_default();
        let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").cloned().unwrap_or_default();
        Self { schema, rules: Validator::new() }
    }

    fn check(&self, number: usize, document: Value) -> Checked {
        let mut problems = identity(&document);
        schema::check(&document, &self.schema, &mut problems);
        if problems.is_empty() {
            let spec = document.get("spec").cloned().unwrap_or_default();
            match serde_json::from_value::<RetailTenantSpec>(spec) {
                Ok(spec) => problems.extend(TenantRules::compile(&spec).err().unwrap_or_default()),
                Err(error) => problems.push(problem("spec", error.to_string())),
            }
            self.rules(&document, &mut problems);
        }
        let mut notes = Vec::new();
        size::check(&document, &self.schema, &mut problems, &mut notes);
        let name = document.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
        Checked { document, number, name, problems, notes }
    }

    /// The CEL rules, as far as nothing more exact has been said of the same field.
    fn rules(&self, document: &Value, problems: &mut Vec<SpecProblem>) {
        let errors = match self.rules.validate(&self.schema, document, None) {
            Ok(()) => return,
            Err(errors) => errors.into_vec(),
        };
        let before = problems.len();
        for error in errors {
            let said = problems[..before].iter().any(|known| {
                let (known, field) = (known.field.as_str(), error.field_path.as_str());
                known.starts_with(field) || field.starts_with(known)
            });
            if !said {
                problems.push(problem(&error.field_path, error.message));
            }
        }
    }
}

/// What the API server checks of every object.
fn identity(document: &Value) -> Vec<SpecProblem> {
    let mut problems = Vec::new();
    for (field, expected) in [("apiVersion", format!("{GROUP}/{VERSION}")), ("kind", KIND.to_owned())] {
        if document.get(field).and_then(Value::as_str) != Some(&expected) {
            problems.push(problem(field, format!("'{expected}' is expected")));
        }
    }
    let is_name = |name: &str| {
        let label = |label: &str| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
        };
        name.len() <= NAME_MAX && name.split('.').all(label)
    };
    match document.pointer("/metadata/name") {
        Some(Value::String(name)) if is_name(name) => {}
        Some(_) => problems.push(problem(
            "metadata.name",
            "a name of a-z, 0-9, '-' and '.' is expected, which begins and ends with a letter or a digit".to_owned(),
        )),
        None => problems.push(problem("metadata.name", "required value".to_owned())),
    }
    problems
}

fn problem(field: &str, problem: String) -> SpecProblem {
    SpecProblem { field: field.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const EXAMPLE: &str = include_str!("../../../examples/zava.yaml");

    fn problems(text: &str) -> String {
        let checked = check(text).expect("a manifest");
        checked.iter().flat_map(|one| &one.problems).map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_examples_are_good_also_several_in_one_file() {
        let both = format!("{EXAMPLE}---\n{}", include_str!("../../../examples/contoso.yaml"));
        assert_eq!(problems(&both), "");
        let names: Vec<_> = check(&both).unwrap().into_iter().map(|one| (one.number, one.name)).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        let list =
            format!("{{\"kind\": \"List\", \"items\": [{}]}}", serde_saphyr::from_str::<Value>(EXAMPLE).unwrap());
        assert_eq!(problems(&list), "");
        let others = "kind: ConfigMap\napiVersion: v1\nmetadata: {name: x}\n---\n";
        let checked = check(&format!("{others}{EXAMPLE}")).unwrap();
        assert_eq!((checked.len(), checked[0].number), (1, 2), "other kinds are left out");
        assert!(matches!(check(others), Err(ManifestError::Empty)));
        assert!(matches!(check("a: b: c"), Err(ManifestError::Yaml(_))));
    }

    /// What the schema, a CEL rule, or the operator alone refuses: each names its field.
    #[test]
    fn each_kind_of_problem_names_its_field() {
        for (from, to, expected) in [
            ("kind: RetailTenant", "kind: RetailTenant\nfoo: 1", "foo: unknown field"),
            ("tenantId: zava", "tenantId: Zava!", "spec.tenantId: 'Zava!' should match"),
            ("tenantId: zava", "tenantId: 5", "spec.tenantId: a string is expected"),
            ("displayName:", "displayNam:", "spec.displayNam: unknown field"),
            ("role: HeadOffice", "role: Boss", "'StoreManager', 'RegionalManager', 'HeadOffice'"),
            ("stores: [Seattle]", "stores: [Sea]", "rule 'seattle-manager' names the store 'Sea'"),
            ("name: zava\n", "name: Zava\n", "metadata.name"),
            (
                "apiVersion: retail.storefence.dev/v1alpha1",
                "apiVersion: v1",
                "apiVersion: 'retail.storefence.dev/v1alpha1'",
            ),
        ] {
            assert!(EXAMPLE.contains(from), "the example has no '{from}'");
            let said = problems(&EXAMPLE.replacen(from, to, 1));
            assert!(said.contains(expected), "{to}: {said}");
        }
        let mut document: Value = serde_saphyr::from_str(EXAMPLE).unwrap();
        for (rotation, expected) in [
            (json!({"period": "2s", "overlap": "1s"}), "period must be at least 1h"),
            (json!({"period": "2h", "overlap": "3h"}), "overlap must be at least 1s and shorter than period"),
            (json!({"period": "soon"}), "spec.rotation.period: 'soon' should match"),
        ] {
            document["spec"]["rotation"] = rotation;
            let said = problems(&document.to_string());
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn what_cel_cannot_afford_is_found_at_any_size() {
        let store =
            |n: usize| json!({"name": format!("Store {n}"), "id": format!("{n:08x}-0000-4000-8000-000000000000")});
        let names: Vec<String> = (0..500).map(|n| format!("Store {n}")).collect();
        let rule =
            |n: usize| json!({"name": format!("rule-{n}"), "role": "RegionalManager", "appRole": "x", "stores": names});
        let mut document: Value = serde_saphyr::from_str(EXAMPLE).unwrap();
        document["spec"]["stores"] = (0..500).map(store).collect();
        document["spec"]["principals"] = (0..64).map(rule).collect();
        assert_eq!(problems(&document.to_string()), "");
        document["spec"]["stores"][499]["id"] = document["spec"]["stores"][0]["id"].clone();
        document["spec"]["principals"][63]["stores"][499] = "Store 500".into();
        let said = problems(&document.to_string());
        assert!(said.contains("spec.stores[499].id") && said.contains("'Store 0' and 'Store 499'"), "{said}");
        assert!(said.contains("spec.principals[63].stores[499]: rule 'rule-63' names the store 'Store 500'"), "{said}");
    }
}
