//! `recorded.json`: what the libraries of Kubernetes 1.36 say of many rules over one schema and one value; this must
//! say the same.

use kube_cel::{
    KubeCelExt as _,
    cel::{Context, Value as Cel},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    check::check,
    convert::Converter,
    decl::{Ty, declare},
    estimate::estimate,
    parse,
    run::{Stop, run},
};
use crate::kube_api::schema::Schema;

#[derive(Deserialize)]
struct Recorded {
    schema: Value,
    #[serde(rename = "self")]
    this: Value,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    rule: String,
    refused: Option<String>,
    #[serde(default)]
    estimate: u64,
    #[serde(default)]
    counted: u64,
    #[serde(default)]
    result: String,
}

#[test]
fn estimates_counts_and_results_are_those_of_a_real_server() {
    let recorded: Recorded = serde_json::from_str(include_str!("recorded.json")).expect("recorded");
    let schema = Schema::compile(&recorded.schema, "s").expect("schema");
    let decl = declare(&schema, false).expect("declaration");
    let base = Context::default().with_all();
    let this = Converter { base: &base }.convert(&recorded.this, Some(&schema));
    let mut wrong = Vec::new();
    for case in &recorded.cases {
        let program = match parse(&case.rule) {
            Ok(program) => program,
            Err(error) => {
                wrong.push(format!("{}: {error}", case.rule));
                continue;
            }
        };
        let expression = &program;
        let checked = check(expression, &[("self", decl.as_type())], &Ty::Bool);
        let checked = match (checked, &case.refused) {
            (Ok(checked), None) => checked,
            (Err(why), Some(wanted)) if why.ends_with(wanted.as_str()) => continue,
            (Ok(_), Some(wanted)) => {
                wrong.push(format!("{}: accepted, a real server says {wanted}", case.rule));
                continue;
            }
            (Err(why), _) => {
                wrong.push(format!("{}: {why}, a real server says {:?}", case.rule, case.refused));
                continue;
            }
        };
        let estimated = estimate(expression, &checked, &decl).max;
        let (value, counted) = run(expression, &base, &[("self", this.clone())], u64::MAX);
        let result = match value {
            Ok(Cel::Bool(b)) => b.to_string(),
            Ok(other) => format!("{other:?}"),
            Err(Stop::Failed(why)) => format!("error: {why}"),
            Err(Stop::Limit) => "limit".into(),
        };
        let found = (estimated, counted, result.as_str());
        let wanted = (case.estimate, case.counted, case.result.as_str());
        if found != wanted {
            wrong.push(format!("{}: {found:?}, a real server says {wanted:?}", case.rule));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), recorded.cases.len(), wrong.join("\n"));
}

/// The rules that Storefence 1.x had, measured on a real server.
#[test]
fn the_membership_rule_is_estimated_as_on_a_real_server() {
    let names = |most: u64| json!({"type": "array", "maxItems": most, "items": {"type": "string", "maxLength": 63}});
    let cost = |principals: u64| {
        let raw = json!({"type": "object", "properties": {
            "stores": {"type": "array", "maxItems": 500, "items": {"type": "object", "properties": {
                "name": {"type": "string", "maxLength": 63}}}},
            "principals": {"type": "array", "maxItems": principals,
                "items": {"type": "object", "properties": {"stores": names(500)}}},
        }});
        let schema = Schema::compile(&raw, "s").expect("schema");
        let decl = declare(&schema, false).expect("declaration");
        let rule = "self.principals.all(p, sets.contains(self.stores.map(s, s.name), p.stores))";
        let program = parse(rule).expect("rule");
        let checked = check(&program, &[("self", decl.as_type())], &Ty::Bool).expect("types");
        estimate(&program, &checked, &decl).max
    };
    assert_eq!(cost(64), 16_449_219);
    assert!(cost(32) <= super::RULE_LIMIT && cost(39) > super::RULE_LIMIT);
}

/// `self.stores.all(s, self.stores.exists_one(t, t.id == s.id))` at several sizes.
#[test]
fn the_id_rule_is_counted_as_on_a_real_server() {
    let raw = json!({"type": "object", "properties": {"stores": {"type": "array", "items": {"type": "object",
        "properties": {"id": {"type": "string"}}}}}});
    let schema = Schema::compile(&raw, "s").expect("schema");
    let base = Context::default().with_all();
    let program = parse("self.stores.all(s, self.stores.exists_one(t, t.id == s.id))").expect("rule");
    let counted = |stores: u32| {
        let stores: Vec<Value> =
            (0..stores).map(|n| json!({"id": format!("00000000-0000-4000-8000-{n:012}")})).collect();
        let this = Converter { base: &base }.convert(&json!({"stores": stores}), Some(&schema));
        run(&program, &base, &[("self", this)], super::CALL_LIMIT)
    };
    let (value, cost) = counted(300);
    assert!(matches!(value, Ok(Cel::Bool(true))), "{value:?}");
    assert_eq!(cost, 722_703);
    assert!(matches!(counted(352).0, Ok(Cel::Bool(true))));
    assert!(matches!(counted(353).0, Err(Stop::Limit)));
}
