use std::sync::Arc;

use serde_json::{Value, json};

use super::{Apply, Manager, apply, track_update};
use crate::kube_api::{
    builtin,
    resource::{ALL_VERBS, Resource},
    schema::Schema,
};

fn resource() -> Resource {
    let raw = json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "title": {"type": "string"},
            "note": {"type": "string"},
            "limits": {"type": "object", "properties": {"rows": {"type": "integer"}, "bytes": {"type": "integer"}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "atoms": {"type": "array", "items": {"type": "string"}},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "stores": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "id": {"type": "string"}, "city": {"type": "string"}}}},
        }},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }});
    let mut schema = Schema::compile(&raw, "").expect("schema");
    schema.properties.insert("metadata".into(), builtin::object_meta_schema(None));
    for field in ["apiVersion", "kind"] {
        schema.properties.insert(field.into(), Arc::new(Schema::default()));
    }
    Resource {
        group: "test.dev".into(),
        version: "v1".into(),
        plural: "things".into(),
        singular: "thing".into(),
        kind: "Thing".into(),
        list_kind: "ThingList".into(),
        short_names: vec![],
        categories: vec![],
        namespaced: true,
        has_status: true,
        verbs: ALL_VERBS,
        schema: Arc::new(schema),
        openapi: Value::Null,
        columns: vec![],
        crd: Some("things.test.dev".into()),
        table: "things".into(),
    }
}

fn manager(name: &str) -> Manager {
    Manager { name: name.into(), subresource: String::new() }
}

fn put(live: &Value, who: &str, spec: Value, force: bool) -> Result<Value, crate::kube_api::status::ApiError> {
    let config = json!({"apiVersion": "test.dev/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": spec});
    let request = Apply { config, manager: &manager(who), force, ignored: &["status"] };
    apply(live, request, &resource(), &"2026-01-01T00:00:00Z".to_owned())
}

fn blank() -> Value {
    json!({"apiVersion": "test.dev/v1", "kind": "Thing", "metadata": {"name": "a"}})
}

#[test]
fn fields_left_out_go_and_fields_of_others_stay() {
    let one = put(&blank(), "one", json!({"title": "t", "limits": {"rows": 1, "bytes": 2}}), false).expect("create");
    let two =
        put(&one, "two", json!({"note": "n", "limits": {"bytes": 2}}), false).expect("shared value is no conflict");
    let three = put(&two, "one", json!({"title": "t"}), false).expect("apply");
    assert_eq!(three["spec"], json!({"title": "t", "note": "n", "limits": {"bytes": 2}}));
    let four = put(&three, "two", json!({"note": "n"}), false).expect("apply");
    assert_eq!(four["spec"], json!({"title": "t", "note": "n"}));
}

#[test]
fn conflicts_name_managers_and_force_takes_over() {
    let one = put(&blank(), "one", json!({"title": "t", "note": "n"}), false).expect("create");
    let error = put(&one, "two", json!({"title": "u"}), false).expect_err("conflict");
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"one\": .spec.title");
    let error = put(&one, "two", json!({"title": "u", "note": "m"}), false).expect_err("conflicts");
    assert_eq!(error.message, "Apply failed with 2 conflicts: conflicts with \"one\":\n- .spec.note\n- .spec.title");
    let two = put(&one, "two", json!({"title": "u"}), true).expect("forced");
    assert_eq!(two["spec"]["title"], "u");
    let error = put(&two, "one", json!({"title": "t", "note": "n"}), false).expect_err("ownership moved");
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"two\": .spec.title");
}

#[test]
fn lists_merge_by_their_type() {
    let spec = json!({"atoms": ["a"], "tags": ["x"], "stores": [{"name": "s1", "id": "1"}, {"name": "s2", "id": "2"}]});
    let one = put(&blank(), "one", spec, false).expect("create");
    let two = put(&one, "two", json!({"tags": ["y"], "stores": [{"name": "s2", "city": "c"}, {"name": "s3"}]}), false)
        .expect("merge");
    assert_eq!(two["spec"]["tags"], json!(["x", "y"]));
    assert_eq!(
        two["spec"]["stores"],
        json!([{"name": "s1", "id": "1"}, {"name": "s2", "id": "2", "city": "c"}, {"name": "s3"}])
    );
    // s2 is shared, so it stays without what "one" had put into it; s1 goes.
    let three = put(&two, "one", json!({"atoms": ["a"]}), false).expect("apply");
    assert_eq!(three["spec"]["stores"], json!([{"name": "s2", "city": "c"}, {"name": "s3"}]));
    assert_eq!(three["spec"]["tags"], json!(["y"]));
    assert_eq!(put(&three, "two", json!({"atoms": ["b"]}), false).expect_err("atomic").code, 409);
}

#[test]
fn unknown_fields_are_refused() {
    let error = put(&blank(), "one", json!({"titel": "t"}), false).expect_err("typo");
    assert!(error.message.ends_with(".spec.titel: field not declared in schema"), "{}", error.message);
}

#[test]
fn ordinary_writes_take_what_they_change() {
    let kind = resource();
    let one = put(&blank(), "one", json!({"title": "t", "note": "n"}), false).expect("create");
    let mut two = one.clone();
    two["spec"]["title"] = json!("u");
    track_update(Some(&one), &mut two, &kind, &manager("editor"), &"2026-01-02T00:00:00Z".to_owned());
    let error = put(&two, "one", json!({"title": "t", "note": "n"}), false).expect_err("editor owns the title");
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"editor\" using test.dev/v1: .spec.title");
    let again = put(&two, "one", json!({"note": "n"}), false).expect("no longer wants the title");
    assert_eq!(again["spec"], json!({"title": "u", "note": "n"}));
    assert!(super::same(&again, &put(&again, "one", json!({"note": "n"}), false).expect("again")));
}
