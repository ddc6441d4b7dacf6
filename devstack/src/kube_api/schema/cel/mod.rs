//! `x-kubernetes-validations`: CEL rules, evaluated with the Kubernetes function libraries of the `kube-cel` crate.
//!
//! Rules are checked, and what they can cost at most is estimated, when a definition is created; what they do cost is
//! counted when an object is written. Both follow Kubernetes 1.36: <https://kubernetes.io/docs/reference/using-api/cel/>.

mod budget;
mod check;
mod convert;
mod decl;
mod estimate;
mod functions;
mod library;
mod range;
#[cfg(test)]
mod recorded;
mod run;

use std::sync::Arc;

use kube_cel::{
    KubeCelExt as _,
    cel::{Context, IdedExpr, ParseErrors, Value as Cel, objects::OptionalValue, parser::Parser},
};
use serde_json::{Map, Value};

pub use budget::{CRD_LIMIT, RULE_LIMIT, RuleCost, check_rules, costs};
use convert::{Converter, escape};
use run::{CALL_LIMIT, Stop};

use super::{
    Additional, Schema, SchemaError, Type,
    validate::{OldItems, join, old_field},
};
use crate::kube_api::status::{FieldError, FieldErrorKind as Kind};

/// What the rules of one object may cost together.
const OBJECT_LIMIT: u64 = 10_000_000;

#[derive(Debug)]
pub struct Rule {
    text: String,
    program: IdedExpr,
    message: Option<String>,
    message_expression: Option<IdedExpr>,
    reason: Kind,
    field_path: Option<String>,
    optional_old_self: bool,
    transition: bool,
}

pub(super) fn compile_rules(raw: &Map<String, Value>, path: &str) -> Result<Vec<Rule>, SchemaError> {
    let Some(rules) = raw.get("x-kubernetes-validations").and_then(Value::as_array) else { return Ok(Vec::new()) };
    rules
        .iter()
        .enumerate()
        .map(|(i, rule)| compile_rule(rule, &format!("{path}.x-kubernetes-validations[{i}]")))
        .collect()
}

fn parse(source: &str) -> Result<IdedExpr, ParseErrors> {
    Parser::default().enable_optional_syntax(true).parse(source)
}

fn compile_rule(raw: &Value, path: &str) -> Result<Rule, SchemaError> {
    let text = |name: &str| raw.get(name).and_then(Value::as_str).map(str::to_owned);
    let compile = |name: &str, source: &str| {
        parse(source).map_err(|error| SchemaError {
            path: format!("{path}.{name}"),
            why: format!("compilation failed: ERROR: <input>:1:1: Syntax error: {error}"),
            value: Value::String(source.to_owned()),
        })
    };
    let rule = text("rule").unwrap_or_default();
    let program = compile("rule", &rule)?;
    let message_expression =
        text("messageExpression").map(|source| compile("messageExpression", &source)).transpose()?;
    let transition = program.references().has_variable("oldSelf");
    Ok(Rule {
        transition,
        program,
        text: rule,
        message: text("message"),
        message_expression,
        reason: match text("reason").as_deref() {
            Some("FieldValueForbidden") => Kind::Forbidden,
            Some("FieldValueRequired") => Kind::Required,
            Some("FieldValueDuplicate") => Kind::Duplicate,
            _ => Kind::Invalid,
        },
        field_path: text("fieldPath"),
        optional_old_self: raw.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or(false),
    })
}

/// Whether any rule stands in the schema.
pub(super) fn has_rules(schema: &Schema) -> bool {
    !schema.rules.is_empty()
        || schema.properties.values().any(|s| has_rules(s))
        || schema.items.as_ref().is_some_and(|s| has_rules(s))
        || matches!(&schema.additional, Additional::Schema(s) if has_rules(s))
}

/// Evaluates every rule of the schema that a change could have broken.
pub(super) fn evaluate(value: &Value, old: Option<&Value>, schema: &Schema, errors: &mut Vec<FieldError>) {
    thread_local! {
        static BASE: Context<'static> = Context::default().with_all();
    }
    // The walk ends early where a budget is spent; what it found until then is reported.
    BASE.with(|base| Walk { base, errors, left: OBJECT_LIMIT }.node(value, old, schema, "")).unwrap_or(());
}

struct Walk<'a> {
    base: &'a Context<'a>,
    errors: &'a mut Vec<FieldError>,
    /// What is left of the object's budget.
    left: u64,
}

/// A budget is spent: no further rule runs.
struct Spent;

impl Walk<'_> {
    fn node(&mut self, value: &Value, old: Option<&Value>, schema: &Schema, path: &str) -> Result<(), Spent> {
        if value.is_null() {
            return Ok(());
        }
        if !schema.rules.is_empty() {
            self.rules(value, old, schema, path)?;
        }
        match value {
            Value::Object(map) => {
                for (name, child) in map {
                    if let Some(field) = schema.field(name)
                        && has_rules(field)
                    {
                        self.node(child, old_field(old, name), field, &join(path, name))?;
                    }
                }
            }
            Value::Array(items) => {
                if let Some(item_schema) = &schema.items
                    && has_rules(item_schema)
                {
                    let old = OldItems::new(old, schema);
                    for (index, item) in items.iter().enumerate() {
                        self.node(item, old.get(schema, item), item_schema, &format!("{path}[{index}]"))?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn rules(&mut self, value: &Value, old: Option<&Value>, schema: &Schema, path: &str) -> Result<(), Spent> {
        let invalid = |why: String| FieldError::invalid(path, Value::String(schema.type_name().into()), why);
        let spent = "validation failed due to running out of cost budget, no further validation rules will be run";
        if self.left == 0 {
            self.errors.push(invalid(spent.into()));
            return Err(Spent);
        }
        let converter = Converter { base: self.base };
        let this = converter.convert(value, Some(schema));
        let before = old.filter(|o| !o.is_null()).map(|o| converter.convert(o, Some(schema)));
        for rule in &schema.rules {
            let mut variables = vec![("self", this.clone())];
            match (&before, rule.optional_old_self) {
                (Some(old), false) => variables.push(("oldSelf", old.clone())),
                (None, false) if rule.transition => continue,
                (None, false) => {}
                (old, true) => {
                    let optional = old.clone().map_or_else(OptionalValue::none, OptionalValue::of);
                    variables.push(("oldSelf", Cel::Opaque(Arc::new(optional))));
                }
            }
            let (found, cost) = run::run(&rule.program, self.base, &variables, CALL_LIMIT);
            if cost > self.left {
                self.errors.push(invalid(spent.into()));
                return Err(Spent);
            }
            self.left -= cost;
            match found {
                Ok(Cel::Bool(true)) => {}
                // A rule that failed before the change as well does not fail the change.
                Ok(Cel::Bool(false)) if !rule.transition && old == Some(value) => {}
                Ok(Cel::Bool(false)) => {
                    let message = self.explain(rule, &variables, &invalid)?;
                    self.errors.push(rule.error(path, value, schema, message));
                }
                Ok(_) => {
                    self.errors.push(invalid(format!("cel expression evaluated to no bool for rule: {}", rule.name())))
                }
                Err(Stop::Limit) => {
                    let name = rule.name();
                    self.errors.push(invalid(format!(
                        "'operation cancelled: actual cost limit exceeded': no further validation rules will be run \
                         due to call cost exceeds limit for rule: {name}"
                    )));
                    return Err(Spent);
                }
                Err(Stop::Failed(why)) if why.starts_with("no such overload") => {
                    let name = rule.name();
                    self.errors.push(invalid(format!(
                        "'{why}': call arguments did not match a supported operator, function or macro signature for \
                         rule: {name}"
                    )));
                }
                Err(Stop::Failed(why)) => {
                    self.errors.push(invalid(format!("{why} evaluating rule: {}", rule.name())));
                }
            }
        }
        Ok(())
    }

    /// The sentence of a rule that failed.
    fn explain(
        &mut self,
        rule: &Rule,
        variables: &[(&str, Cel)],
        invalid: &impl Fn(String) -> FieldError,
    ) -> Result<String, Spent> {
        let fixed = || rule.message.clone().unwrap_or_else(|| format!("failed rule: {}", rule.text));
        let Some(program) = &rule.message_expression else { return Ok(fixed()) };
        let (text, cost) = run::run(program, self.base, variables, CALL_LIMIT);
        if cost > self.left {
            let why = "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run";
            self.errors.push(invalid(why.into()));
            return Err(Spent);
        }
        self.left -= cost;
        Ok(match text {
            Ok(Cel::String(text)) if !text.trim().is_empty() && !text.contains('\n') && text.len() <= 5 * 1024 => {
                text.to_string()
            }
            _ => fixed(),
        })
    }
}

impl Rule {
    /// What errors call the rule: its message, else its text.
    fn name(&self) -> &str {
        self.message.as_deref().unwrap_or(&self.text)
    }

    fn error(&self, path: &str, value: &Value, schema: &Schema, message: String) -> FieldError {
        let path = match &self.field_path {
            Some(relative) if path.is_empty() => relative.trim_start_matches('.').to_owned(),
            Some(relative) if relative.starts_with(['.', '[']) => format!("{path}{relative}"),
            Some(relative) => format!("{path}.{relative}"),
            None => path.to_owned(),
        };
        let error = FieldError::new(self.reason, path, value.clone(), message);
        // Objects and lists are not shown.
        if matches!(schema.kind, Some(Type::Object | Type::Array)) { error.without_value() } else { error }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Schema, validate};

    fn run(rule: serde_json::Value, new: &serde_json::Value, old: Option<&serde_json::Value>) -> Vec<String> {
        let raw = json!({"type": "object", "properties": {"spec": {
            "type": "object",
            "x-kubernetes-validations": [rule],
            "properties": {
                "names": {"type": "array", "items": {"type": "string"}},
                "namespace": {"type": "string"},
                "a-b": {"type": "string"},
                "at": {"type": "string", "format": "date-time"},
                "size": {"type": "integer"},
            },
        }}});
        let schema = Schema::compile(&raw, "schema").expect("schema");
        validate(new, old, &schema, false).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_see_escaped_names_formats_and_libraries() {
        let object = json!({"spec": {"names": ["b", "a"], "namespace": "x", "a-b": "y", "at": "2026-01-01T00:00:00Z", "size": 3}});
        for rule in [
            "self.__namespace__ == 'x' && self.a__dash__b == 'y'",
            "self.at < timestamp('2027-01-01T00:00:00Z')",
            "sets.contains(self.names, ['a'])",
            "self.names.all(n, n.matches('^[a-z]$')) && !self.names.isSorted()",
            "!has(self.absent)",
            "self.names.exists_one(n, n == 'a') && size(self.names) == 2 && self.size in [1, 3]",
            "self.names.map(n, n + '!').join(',') == 'b!,a!'",
            "duration('5s') <= duration('60s') && quantity('1Gi').isGreaterThan(quantity('1Mi'))",
            "isURL('https://a.example/b') && url('https://a.example/b').getHost() == 'a.example'",
        ] {
            assert_eq!(run(json!({"rule": rule}), &object, None), Vec::<String>::new(), "{rule}");
        }
    }

    #[test]
    fn failures_carry_message_reason_and_path() {
        let object = json!({"spec": {"size": 3}});
        let rule = json!({"rule": "self.size < 3", "messageExpression": "'size is ' + string(self.size)", "fieldPath": ".size"});
        assert_eq!(run(rule, &object, None), ["spec.size: Invalid value: size is 3"]);
        let rule = json!({"rule": "self.size < 3", "message": "no", "reason": "FieldValueForbidden"});
        assert_eq!(run(rule, &object, None), ["spec: Forbidden: no"]);
        assert_eq!(
            run(json!({"rule": "self.size < 3"}), &object, None),
            ["spec: Invalid value: failed rule: self.size < 3"]
        );
    }

    #[test]
    fn transition_rules_need_an_old_value() {
        let (old, new) = (json!({"spec": {"size": 3}}), json!({"spec": {"size": 4}}));
        let rule = json!({"rule": "self.size == oldSelf.size", "message": "immutable"});
        assert!(run(rule.clone(), &new, None).is_empty());
        assert_eq!(run(rule, &new, Some(&old)), ["spec: Invalid value: immutable"]);
        let rule = json!({"rule": "!oldSelf.hasValue() || oldSelf.value().size == self.size", "optionalOldSelf": true});
        assert!(run(rule.clone(), &new, None).is_empty());
        assert_eq!(run(rule, &new, Some(&old)).len(), 1);
    }
}
