//! What a real API server needs of the definition, and the rules that it cannot apply itself.

use kube::core::cel::Validator;
use serde_json::{Value, json};
use storefence_tenancy::{
    RetailTenantSpec, TenantRules,
    resource::{RULES_BYTES_MAX, STORES_BYTES_MAX, UNTRUSTED_CLAIMS, crd},
};

fn schema() -> Value {
    serde_json::to_value(crd()).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn id(n: usize) -> String {
    format!("{n:08x}-0000-4000-8000-000000000000")
}

/// Stores, and rules that each name so many of them.
fn spec(stores: usize, rules: usize, named: usize) -> Value {
    let store = |n: usize| json!({"name": format!("Store {n}"), "id": id(n)});
    let names: Vec<String> = (0..named).map(|n| format!("Store {n}")).collect();
    let rule =
        |n: usize| json!({"name": format!("rule-{n}"), "role": "RegionalManager", "appRole": "x", "stores": names});
    json!({
        "tenantId": "zava", "entra": {"tenantId": "7d1c9a52-3b64-4f0e-8c21-5a9e0b7f4d13"},
        "databaseRef": {"name": "retail"}, "keyVaultRef": {"name": "main"},
        "stores": (0..stores).map(store).collect::<Vec<_>>(), "principals": (0..rules).map(rule).collect::<Vec<_>>(),
    })
}

fn problems(spec: &Value) -> String {
    let spec: RetailTenantSpec = serde_json::from_value(spec.clone()).unwrap();
    let problems = TenantRules::compile(&spec).err().unwrap_or_default();
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn cel(spec: &Value) -> String {
    match Validator::new().validate(&schema(), &json!({"spec": spec}), None) {
        Ok(()) => String::new(),
        Err(errors) => errors.to_string(),
    }
}

/// Every node of the schema with its path.
fn nodes(schema: &Value) -> Vec<(String, Value)> {
    fn walk(path: &str, schema: &Value, found: &mut Vec<(String, Value)>) {
        found.push((path.to_owned(), schema.clone()));
        for (name, child) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), child, found);
        }
        for child in ["items", "additionalProperties"] {
            if schema[child].is_object() {
                walk(&format!("{path}[]"), &schema[child], found);
            }
        }
    }
    let mut found = Vec::new();
    walk("", schema, &mut found);
    assert!(found.len() > 50);
    found
}

/// The server warns of a format that it does not know, and says nothing of a value that does not fit it.
#[test]
fn every_format_is_known_to_kubernetes() {
    // apiextensions-apiserver, pkg/apiserver/validation/formats.go: for integers, and those for strings that occur here.
    for (path, node) in nodes(&schema()) {
        let Some(format) = node["format"].as_str() else { continue };
        let known = match node["type"].as_str() {
            Some("integer") => ["int32", "int64"].contains(&format),
            Some("string") => format == "date-time",
            _ => false,
        };
        assert!(known, "{path}: {format} of {}", node["type"]);
        let bound = |end: &str| node[end].as_f64().unwrap_or_default();
        assert!(format != "int32" || bound("maximum") <= f64::from(i32::MAX), "{path} does not fit int32");
    }
}

/// Without a maximum the server estimates a rule's cost with what fits into a request.
#[test]
fn every_list_map_and_text_has_a_maximum() {
    for (path, node) in nodes(&schema()) {
        let bounded = match node["type"].as_str() {
            Some("array") => node["maxItems"].is_u64(),
            Some("object") => node["additionalProperties"].is_null() || node["maxProperties"].is_u64(),
            Some("string") => node["maxLength"].is_u64() || node["enum"].is_array() || node["format"] == "date-time",
            _ => true,
        };
        assert!(bounded, "{path} has no maximum: {node}");
    }
}

/// The rules say the numbers of the constants, and the claims of the list.
#[test]
fn rules_and_constants_agree() {
    let text = schema().to_string();
    for number in [RULES_BYTES_MAX, STORES_BYTES_MAX] {
        assert!(text.contains(&format!("sum() <= {number}")) && text.contains(&format!("at most {number} bytes")));
    }
    let claims = UNTRUSTED_CLAIMS.map(|(claim, _)| format!("'{claim}'")).join(", ");
    assert_eq!(text.matches(&claims).count(), 2, "{claims}");
}

/// What is small is refused at apply, what is large by the operator; never by neither.
#[test]
fn what_cel_lets_through_is_refused_by_the_operator() {
    for (stores, rules, named, at_apply) in
        [(2, 1, 1, true), (150, 64, 20, true), (151, 64, 20, false), (500, 20, 500, false), (500, 64, 500, false)]
    {
        let good = spec(stores, rules, named);
        assert_eq!((cel(&good), problems(&good)), (String::new(), String::new()), "{stores} {rules} {named}");
        let mut twice = good.clone();
        twice["stores"][stores - 1]["id"] = id(0).into();
        assert_eq!(cel(&twice).contains("two stores have the same id"), at_apply, "{stores} stores");
        let said = problems(&twice);
        let last = format!("'Store 0' and 'Store {}'", stores - 1);
        assert!(said.contains(&format!("spec.stores[{}].id", stores - 1)) && said.contains(&last), "{said}");
    }
    for (stores, rules, named, at_apply) in
        [(2, 1, 1, true), (150, 64, 20, true), (500, 20, 20, true), (500, 21, 20, false), (150, 64, 21, false)]
    {
        let mut unknown = spec(stores, rules, named);
        unknown["principals"][rules - 1]["stores"][named - 1] = "Tacoma".into();
        assert_eq!(cel(&unknown).contains("must be the name of a store"), at_apply, "{stores} {rules} {named}");
        let said = problems(&unknown);
        let expected = format!("rule 'rule-{}' names the store 'Tacoma'", rules - 1);
        assert!(said.contains(&expected) && said.contains(&format!(".stores[{}]", named - 1)), "{said}");
    }
}

/// The same limits at apply and in the operator.
#[test]
fn names_together_have_a_limit() {
    let long = |n: usize| format!("{n:03}{}", "x".repeat(60));
    let mut large = spec(500, 64, 0);
    for n in 0..500 {
        large["stores"][n]["name"] = long(n).into();
    }
    let fill = |large: &mut Value, each: usize| {
        for n in 0..64 {
            large["principals"][n]["stores"] = (0..each).map(long).collect();
        }
    };
    fill(&mut large, RULES_BYTES_MAX / 64 / 63);
    assert_eq!((cel(&large), problems(&large)), (String::new(), String::new()));
    fill(&mut large, RULES_BYTES_MAX / 64 / 63 + 1);
    for said in [cel(&large), problems(&large)] {
        assert!(said.contains("all names together") && said.contains("HeadOffice"), "{said}");
    }
    fill(&mut large, 1);
    for n in 0..500 {
        large["stores"][n]["displayName"] = "ü".repeat(150).into();
    }
    for said in [cel(&large), problems(&large)] {
        assert!(said.contains("names and display names together"), "{said}");
    }
}

#[test]
fn stores_that_look_alike_are_refused_and_other_scripts_are_not() {
    let mut two = spec(2, 1, 1);
    for (one, other, problem) in [
        ("Zürich", "Łódź", ""),
        ("One", "Two", ""),
        ("One", "one", "looks like 'One'"),
        ("One", "One ", "must not end with a space"),
        ("Zürich", "Zu\u{308}rich", "'Zürich' stands twice"),
        ("Straße", "STRASSE", "looks like 'Straße'"),
        ("One", "Ｏｎｅ", "looks like 'One'"),
        ("One", "On\u{200B}e", "holds U+200B"),
    ] {
        two["stores"][0]["name"] = one.into();
        two["stores"][1]["name"] = other.into();
        two["principals"][0]["stores"] = json!([one]);
        let said = problems(&two);
        assert!(if problem.is_empty() { said.is_empty() } else { said.contains(problem) }, "{one:?} {other:?}: {said}");
    }
}

/// Rules and claims may come in another normal form than the store.
#[test]
fn names_match_in_every_normal_form() {
    let (composed, decomposed) = ("Zürich", "Zu\u{308}rich");
    for (store, rule) in [(composed, decomposed), (decomposed, composed)] {
        let mut one = spec(1, 1, 1);
        one["stores"][0]["name"] = store.into();
        one["principals"][0]["stores"] = json!([rule]);
        let rules = TenantRules::compile(&serde_json::from_value(one).unwrap()).unwrap();
        assert_eq!(&*rules.stores().iter().next().unwrap().1.name, composed);
        for text in [composed, decomposed] {
            assert!(rules.store_by_name_or_id(text).is_some(), "{text}");
        }
    }
}
