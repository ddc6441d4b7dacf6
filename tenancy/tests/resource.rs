//! The schema's words at apply time, and the same checks in Rust for objects that came another way.

use kube::core::cel::Validator;
use serde_json::{Value, json};
use storefence_tenancy::{RetailTenantSpec, TenantRules, resource::crd};

fn valid() -> Value {
    json!({
        "tenantId": "zava",
        "entra": {"tenantId": "7d1c9a52-3b64-4f0e-8c21-5a9e0b7f4d13"},
        "databaseRef": {"name": "retail"},
        "keyVaultRef": {"name": "main"},
        "stores": [
            {"name": "Seattle", "id": "f47ac10b-58cc-4372-a567-0e02b2c3d479"},
            {"name": "Redmond", "id": "e7f8a9b0-c1d2-3e4f-5678-90abcdef1234"},
        ],
        "principals": [
            {"name": "head-office", "role": "HeadOffice", "appRole": "Storefence.HeadOffice", "stores": []},
            {"name": "seattle", "role": "StoreManager", "entraUser": "7d1c9a52-3b64-4f0e-8c21-5a9e0b7f4d13",
             "stores": ["Seattle"]},
        ],
        "gateway": {"maxRows": 500, "maxResultBytes": 1_048_576, "statementTimeout": "5s"},
    })
}

fn schema() -> Value {
    serde_json::to_value(crd()).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn cel(new: &Value, old: Option<&Value>) -> String {
    let wrap = |spec: &Value| json!({"spec": spec});
    match Validator::new().validate(&schema(), &wrap(new), old.map(wrap).as_ref()) {
        Ok(()) => String::new(),
        Err(errors) => errors.to_string(),
    }
}

/// Each edit of the valid spec breaks one cross-field rule: the CEL message a person sees at apply, and the field that
/// `TenantRules::compile` names.
#[test]
fn every_cross_field_error_is_said_at_apply_and_found_again_in_rust() {
    let edits: &[(&str, Value, &str, &str)] = &[
        (
            "/stores/1/id",
            json!("f47ac10b-58cc-4372-a567-0e02b2c3d479"),
            "two stores have the same id",
            "spec.stores[1].id",
        ),
        ("/stores/0/name", json!("f47ac10b-58cc-4372-a567-0e02b2c3d470"), "must not be a UUID", "spec.stores[0].name"),
        ("/principals/1/stores", json!(["Tacoma"]), "must be the name of a store", "spec.principals[1].stores"),
        ("/principals/1/stores", json!([]), "need at least one entry in stores", "spec.principals[1].stores"),
        ("/principals/0/stores", json!(["Seattle"]), "HeadOffice sees all stores", "spec.principals[0].stores"),
        ("/principals/1/appRole", json!("x"), "exactly one of", "spec.principals[1]"),
        (
            "/principals/0",
            json!({"name": "x", "role": "HeadOffice", "stores": []}),
            "exactly one of",
            "spec.principals[0]",
        ),
        (
            "/principals/1/entraApplication",
            json!("7d1c9a52-3b64-4f0e-8c21-5a9e0b7f4d13"),
            "exactly one of entraGroup, entraUser, entraApplication",
            "spec.principals[1]",
        ),
        ("/principals/0/storesFromClaim", json!("extn.storeIds"), "HeadOffice sees all stores", "spec.principals[0]"),
        (
            "/principals/1",
            json!({"name": "x", "role": "StoreManager", "storesFromClaim": "extn.storeIds", "stores": ["Seattle"]}),
            "storesFromClaim names the stores",
            "spec.principals[1].stores",
        ),
        (
            "/principals/1",
            json!({"name": "x", "role": "StoreManager", "storesFromClaim": "email", "stores": []}),
            "cannot grant access",
            "spec.principals[1].storesFromClaim",
        ),
        (
            "/principals/1",
            json!({"name": "x", "role": "StoreManager", "claim": {"name": "upn", "value": "a@b"}, "stores": ["Seattle"]}),
            "cannot grant access",
            "spec.principals[1].claim.name",
        ),
    ];
    assert_eq!(cel(&valid(), None), "");
    for (path, value, message, field) in edits {
        let mut spec = valid();
        let (parent, key) = path.rsplit_once('/').unwrap();
        let parent = spec.pointer_mut(parent).unwrap();
        match parent {
            Value::Array(items) => items[key.parse::<usize>().unwrap()] = value.clone(),
            _ => parent[key] = value.clone(),
        }
        let said = cel(&spec, None);
        assert!(said.contains(message), "{path}: expected '{message}', the schema says '{said}'");
        let parsed: RetailTenantSpec = serde_json::from_value(spec).unwrap();
        let problems = TenantRules::compile(&parsed).unwrap_err();
        assert!(problems.iter().any(|p| p.field.starts_with(field)), "{path}: {problems:?}");
    }
}

#[test]
fn identity_and_connections_cannot_change() {
    for (path, message) in [
        ("tenantId", "tenantId cannot be changed"),
        ("databaseRef", "databaseRef cannot be changed"),
        ("keyVaultRef", "keyVaultRef cannot be changed"),
    ] {
        let mut changed = valid();
        changed[path] = if path == "tenantId" { json!("other") } else { json!({"name": "other"}) };
        assert!(cel(&changed, Some(&valid())).contains(message), "{path}");
        assert_eq!(cel(&changed, None), "", "{path} is free at creation");
    }
}

#[test]
fn statement_timeouts_outside_100ms_to_60s_are_refused() {
    for (text, good) in [("100ms", true), ("60s", true), ("99ms", false), ("61s", false), ("0s", false)] {
        let mut spec = valid();
        spec["gateway"]["statementTimeout"] = text.into();
        assert_eq!(cel(&spec, None).is_empty(), good, "{text}");
    }
}

#[test]
fn answers_are_kept_for_1s_to_1h_or_not_at_all() {
    let parsed: RetailTenantSpec = serde_json::from_value(valid()).unwrap();
    assert_eq!(parsed.gateway.cache_ttl(), None, "nothing is kept unless asked for");
    for (text, seconds) in
        [("5m", Some(300)), ("1s", Some(1)), ("1h", Some(3600)), ("0s", None), ("61m", None), ("1m1h", None)]
    {
        let mut spec = valid();
        spec["gateway"]["cacheTtl"] = text.into();
        let said = cel(&spec, None);
        assert!(text == "1m1h" || said.is_empty() == seconds.is_some(), "{text}: {said}");
        let parsed: RetailTenantSpec = serde_json::from_value(spec).unwrap();
        assert_eq!(parsed.gateway.cache_ttl().map(|ttl| ttl.as_secs()), seconds, "{text}");
    }
}

/// The schema validator of `kube` looks at CEL rules alone, so the bounds are read off the schema.
#[test]
fn quotas_have_bounds_and_defaults() {
    let schema = schema();
    let gateway = &schema["properties"]["spec"]["properties"]["gateway"]["properties"];
    for (field, default) in [
        ("requestsPerMinute", Value::Null),
        ("tenantRequestsPerMinute", Value::Null),
        ("concurrentCalls", json!(64)),
        ("tenantConcurrentCalls", json!(256)),
    ] {
        assert_eq!(gateway[field]["minimum"].as_f64(), Some(1.0), "{field}");
        assert!(gateway[field]["maximum"].as_f64().is_some_and(|max| max >= 10_000.0), "{field}");
        assert_eq!(gateway[field]["default"], default, "{field}");
    }
}

#[test]
fn the_overlap_of_a_rotation_is_shorter_than_its_period() {
    for (period, overlap, good) in [
        ("720h", "24h", true),
        ("36h30m", "90m15s", true),
        ("1h", "1s", true),
        ("24h", "24h", false),
        ("1h", "61m", false),
        ("1h", "0s", false),
    ] {
        let mut spec = valid();
        spec["rotation"] = json!({"period": period, "overlap": overlap});
        let said = cel(&spec, None);
        assert_eq!(said.is_empty(), good, "{period} {overlap}: {said}");
        assert!(good || said.contains("overlap must be at least 1s and shorter than period"), "{said}");
        let parsed: RetailTenantSpec = serde_json::from_value(spec).unwrap();
        assert_eq!(parsed.rotation.overlap() < parsed.rotation.period(), good, "{period} {overlap}");
    }
    let mut short = valid();
    short["rotation"] = json!({"period": "59m59s", "overlap": "1s"});
    assert!(cel(&short, None).contains("period must be at least 1h"), "{}", cel(&short, None));
    let parsed: RetailTenantSpec = serde_json::from_value(valid()).unwrap();
    assert_eq!((parsed.rotation.period().as_secs(), parsed.rotation.overlap().as_secs()), (2_592_000, 86_400));
    for (text, seconds) in
        [("2s", 3600), ("1h1m1s", 3661), ("90m", 5400), ("1s1h", 2_592_000), ("5", 2_592_000), ("h", 2_592_000)]
    {
        let rotation = storefence_tenancy::resource::Rotation { period: text.to_owned(), ..parsed.rotation.clone() };
        assert_eq!(rotation.period().as_secs(), seconds, "{text}");
    }
}

/// 500 stores and 64 principals are promised; `TenantRules::compile` must not be what limits them.
#[test]
fn the_largest_tenant_compiles() {
    let mut spec = valid();
    let store = |n: u32| json!({"name": format!("Store {n}"), "id": format!("{n:08x}-0000-4000-8000-000000000000")});
    spec["stores"] = (0..500).map(store).collect();
    spec["principals"] = (0..64)
        .map(|n| {
            json!({"name": format!("p{n}"), "role": "RegionalManager", "appRole": "x",
                   "stores": (0..500).map(|n| format!("Store {n}")).collect::<Vec<_>>()})
        })
        .collect();
    let rules = TenantRules::compile(&serde_json::from_value(spec).unwrap()).unwrap();
    assert_eq!((rules.stores().len(), rules.rules().len()), (500, 64));
}

/// Names and IDs lead to the same store, whatever order the spec has them in, and a text that stands for two is held once:
/// a gateway holds ten thousand tenants.
#[test]
fn stores_are_found_by_name_and_by_id() {
    let mut spec = valid();
    let id = |n: u32| format!("{:08x}-0000-4000-8000-000000000000", n.wrapping_mul(0x9e37_79b9));
    let store = |n: u32| json!({"name": format!("Store {n}"), "id": id(n)});
    spec["stores"] = (1..=100).map(store).collect();
    spec["stores"][6]["displayName"] = json!("Seventh");
    spec["principals"] = json!([]);
    let rules = TenantRules::compile(&serde_json::from_value(spec).unwrap()).unwrap();
    let ids: Vec<_> = rules.stores().ids().copied().collect();
    assert!(ids.len() == 100 && ids.is_sorted());
    for n in 1..=100 {
        let expected = id(n).parse().unwrap();
        for text in [format!("Store {n}"), id(n)] {
            assert_eq!(rules.store_by_name_or_id(&text), Some(expected), "{text}");
        }
        let entry = rules.stores().get(&expected).unwrap();
        assert_eq!(*entry.name, format!("Store {n}"));
        assert_eq!(std::sync::Arc::ptr_eq(&entry.name, &entry.display_name), n != 7);
    }
    for unknown in ["", "Store", "Store 0", "store 1", "Store 1 ", &id(101), &id(1).to_uppercase()] {
        assert_eq!(rules.store_by_name_or_id(unknown), None, "{unknown}");
    }
}

#[test]
fn no_optional_field_is_nullable() {
    assert!(!serde_json::to_string(&crd()).unwrap().contains("nullable"));
}
