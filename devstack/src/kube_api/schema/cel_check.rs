//! What the API server finds in CEL rules when a definition is created: names and fields that do not exist, and
//! transition rules where no old value can be told. Types are followed through fields, indexes and comprehensions;
//! what a function returns is taken as it comes.

use kube_cel::cel::common::ast::Expr;
use serde_json::Value;

use super::{Additional, ListType, Rule, Schema, Type, cel::escape};
use crate::kube_api::status::FieldError;

/// Names that are types, or that functions are called on.
const GLOBALS: [&str; 26] = [
    "int",
    "uint",
    "double",
    "bool",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    "dyn",
    "optional_type",
    "optional",
    "math",
    "sets",
    "base64",
    "strings",
    "cel",
    "format",
    "jsonpatch",
    "ip",
    "cidr",
    "google",
    "net",
    "quantity",
    "semver",
];

/// Checks every rule of a schema.
pub fn check_rules(schema: &Schema, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    node(schema, path, true, &mut errors);
    errors
}

fn node(schema: &Schema, path: &str, correlatable: bool, errors: &mut Vec<FieldError>) {
    for (index, rule) in schema.rules.iter().enumerate() {
        let at = format!("{path}.x-kubernetes-validations[{index}].rule");
        if let Err(why) = check_rule(rule, schema) {
            let detail = format!("compilation failed: ERROR: <input>:1:1: {why}");
            errors.push(FieldError::invalid(at.clone(), Value::String(rule.text().into()), detail));
        }
        if rule.is_transition() && !correlatable {
            let detail = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {path}");
            errors.push(FieldError::invalid(at, Value::String(rule.text().into()), detail));
        }
    }
    for (name, child) in &schema.properties {
        node(child, &format!("{path}.properties[{name}]"), correlatable, errors);
    }
    if let Additional::Schema(child) = &schema.additional {
        node(child, &format!("{path}.additionalProperties"), correlatable, errors);
    }
    if let Some(items) = &schema.items {
        let told_apart = matches!(schema.list_type, ListType::Map(_));
        node(items, &format!("{path}.items"), correlatable && told_apart, errors);
    }
}

/// A schema where it is known what an expression yields.
type Known<'a> = Option<&'a Schema>;

fn check_rule(rule: &Rule, schema: &Schema) -> Result<(), String> {
    let old = if rule.old_is_optional() { None } else { Some(schema) };
    for program in rule.programs() {
        let mut scope: Vec<(&str, Known<'_>)> = vec![("self", Some(schema)), ("oldSelf", old)];
        infer(&program.expression().expr, &mut scope)?;
    }
    Ok(())
}

fn infer<'a>(expression: &'a Expr, scope: &mut Vec<(&'a str, Known<'a>)>) -> Result<Known<'a>, String> {
    match expression {
        Expr::Ident(name) => match scope.iter().rev().find(|(known, _)| known == name) {
            Some((_, schema)) => Ok(*schema),
            None if GLOBALS.contains(&name.as_str()) || name.starts_with('@') => Ok(None),
            None => Err(format!("undeclared reference to '{name}' (in container '')")),
        },
        Expr::Select(select) => match infer(&select.operand.expr, scope)? {
            Some(schema) => field(schema, &select.field),
            None => Ok(None),
        },
        Expr::Call(call) => {
            if let Some(target) = &call.target {
                infer(&target.expr, scope)?;
            }
            let mut arguments = Vec::new();
            for argument in &call.args {
                arguments.push(infer(&argument.expr, scope)?);
            }
            Ok(match (call.func_name.as_str(), arguments.as_slice()) {
                ("_[_]", [Some(schema), _]) => element(schema),
                ("_?_:_", [_, yes, no]) => yes.or(*no),
                _ => None,
            })
        }
        Expr::Comprehension(walk) => {
            let range = infer(&walk.iter_range.expr, scope)?;
            let depth = scope.len();
            let item = range.filter(|s| s.kind == Some(Type::Array)).and_then(element);
            scope.push((&walk.iter_var, if walk.iter_var2.is_some() { None } else { item }));
            scope.extend(walk.iter_var2.as_deref().map(|name| (name, item)));
            scope.push((&walk.accu_var, None));
            for part in [&walk.accu_init, &walk.loop_cond, &walk.loop_step, &walk.result] {
                infer(&part.expr, scope)?;
            }
            scope.truncate(depth);
            Ok(None)
        }
        Expr::List(list) => {
            for item in &list.elements {
                infer(&item.expr, scope)?;
            }
            Ok(None)
        }
        Expr::Map(_) | Expr::Struct(_) | Expr::Literal(_) | Expr::Unspecified => Ok(None),
    }
}

fn element(schema: &Schema) -> Known<'_> {
    match &schema.additional {
        Additional::Schema(values) => Some(values),
        _ => schema.items.as_deref(),
    }
}

fn field<'a>(schema: &'a Schema, name: &str) -> Result<Known<'a>, String> {
    if let Some((_, child)) = schema.properties.iter().find(|(property, _)| escape(property) == name) {
        return Ok(Some(child));
    }
    match (&schema.additional, schema.kind) {
        (Additional::Schema(values), _) => Ok(Some(values)),
        // The server's own fields are not part of the declared schema.
        _ if matches!(name, "metadata" | "apiVersion" | "kind") => Ok(None),
        (_, Some(Type::Object)) => Err(format!("undefined field '{name}'")),
        (_, Some(kind)) => Err(format!("type '{}' does not support field selection", kind.name())),
        (_, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Schema, check_rules};

    fn errors(at: &str, rule: &str) -> Vec<String> {
        let mut raw = json!({"type": "object", "properties": {
            "names": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "string"}}}},
            "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
                "items": {"type": "object", "properties": {"n": {"type": "string"}}}},
            "a-b": {"type": "string"},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "integer"}}}},
        }});
        let node: &mut Value = raw.pointer_mut(at).expect("node");
        node["x-kubernetes-validations"] = json!([{"rule": rule}]);
        let schema = Schema::compile(&raw, "s").expect("schema");
        check_rules(&schema, "s").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_and_fields_must_exist() {
        for good in [
            "self.names.all(x, has(x.n) && x.n != '')",
            "self.a__dash__b.size() > 0 && has(self.metadata.name)",
            "self.map.all(k, self.map[k].x > 0) && self.map.y.x == 1",
            "sets.contains(self.names.map(x, x.n), ['a']) && type(self.names) == list",
            "self.names.filter(x, x.n == 'a').exists(y, y.n == 'a') ? true : false",
            "self.names[0].n == oldSelf.names[0].n",
        ] {
            assert_eq!(errors("", good), Vec::<String>::new(), "{good}");
        }
        for (bad, why) in [
            ("self.nams.size() > 0", "undefined field 'nams'"),
            ("self.names.all(x, x.m == '')", "undefined field 'm'"),
            ("self.names[0].m == ''", "undefined field 'm'"),
            ("selv.names.size() > 0", "undeclared reference to 'selv'"),
            ("self.a__dash__b.length > 0", "type 'string' does not support field selection"),
        ] {
            let found = errors("", bad);
            assert!(found.len() == 1 && found[0].contains(why), "{bad}: {found:?}");
        }
    }

    #[test]
    fn transition_rules_need_items_that_can_be_told_apart() {
        assert!(errors("/properties/keyed/items", "self.n == oldSelf.n").is_empty());
        let found = errors("/properties/names/items", "self.n == oldSelf.n");
        assert!(found[0].contains("oldSelf cannot be used on the uncorrelatable portion"), "{found:?}");
    }
}
