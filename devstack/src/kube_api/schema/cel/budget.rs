//! What the server demands of the rules of a definition: that they compile, that a rule about an old value can find it,
//! and that they stay within what is estimated for them (`apiextensions/validation/validation.go`).

use std::sync::Arc;

use serde_json::Value;

use super::{
    Rule,
    check::check,
    decl::{Decl, Ty, declare},
    estimate::estimate,
};
use crate::kube_api::{
    schema::{Additional, ListType, Schema},
    status::FieldError,
};

/// What one rule may be estimated at, times how often its value can occur.
pub const RULE_LIMIT: u64 = 10_000_000;
/// What all rules of a schema may be estimated at.
pub const CRD_LIMIT: u64 = 100_000_000;

/// The estimate of a rule or of its message.
#[derive(Debug, Clone)]
pub struct RuleCost {
    /// Where it stands: `….x-kubernetes-validations[0].rule`.
    pub path: String,
    pub rule: String,
    /// What it can cost at most.
    pub cost: u64,
}

/// The estimates of all rules of a schema, in the order of the schema. Rules that do not compile are left out.
pub fn costs(schema: &Schema, path: &str) -> Vec<RuleCost> {
    let mut walk = Walk::default();
    walk.root(schema, path);
    walk.costs
}

/// Checks every rule of a schema.
pub fn check_rules(schema: &Schema, path: &str) -> Vec<FieldError> {
    let mut walk = Walk::default();
    walk.root(schema, path);
    let total = walk.costs.iter().fold(0_u64, |sum, rule| sum.saturating_add(rule.cost));
    let mut errors = walk.errors;
    if total > CRD_LIMIT {
        let mut dear: Vec<&RuleCost> = walk.costs.iter().filter(|rule| rule.cost >= CRD_LIMIT / 100).collect();
        dear.sort_by_key(|rule| std::cmp::Reverse(rule.cost));
        let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        errors.extend(dear.iter().take(4).map(|rule| FieldError::forbidden(&rule.path, why)));
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(FieldError::forbidden(path, exceeds(what, total, CRD_LIMIT)));
    }
    errors
}

fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

#[derive(Default)]
struct Walk {
    errors: Vec<FieldError>,
    costs: Vec<RuleCost>,
}

/// What is known of a position in the schema.
#[derive(Clone)]
struct Place<'a> {
    path: String,
    decl: Option<Arc<Decl>>,
    /// How often its value can occur; none where a list or map above has no limit.
    occurs: Option<u64>,
    /// The list above whose items cannot be told apart.
    uncorrelatable: Option<&'a str>,
}

impl Walk {
    fn root(&mut self, schema: &Schema, path: &str) {
        let decl = super::has_rules(schema).then(|| declare(schema, true)).flatten();
        self.node(schema, &Place { path: path.to_owned(), decl, occurs: Some(1), uncorrelatable: None });
    }

    fn node(&mut self, schema: &Schema, place: &Place<'_>) {
        let path = &place.path;
        for (name, child) in &schema.properties {
            let decl = place.decl.as_ref().and_then(|d| d.fields.get(&super::escape(name)?).cloned());
            let decl = decl.or_else(|| declare(child, child.embedded));
            self.node(child, &Place { path: format!("{path}.properties[{name}]"), decl, ..place.clone() });
        }
        let below = |occurs: Option<u64>, step: &str| Place {
            path: format!("{path}.{step}"),
            decl: place.decl.as_ref().and_then(|d| d.element().cloned()),
            occurs: place.occurs.and_then(|n| Some(n.saturating_mul(occurs?))),
            uncorrelatable: place.uncorrelatable,
        };
        if let Additional::Schema(child) = &schema.additional {
            self.node(child, &below(schema.entries.1, "additionalProperties"));
        }
        if let Some(items) = &schema.items {
            let mut place = below(schema.size.1, "items");
            if !matches!(schema.list_type, ListType::Map(_)) {
                place.uncorrelatable = place.uncorrelatable.or(Some(path));
            }
            self.node(items, &place);
        }
        for (index, rule) in schema.rules.iter().enumerate() {
            self.rule(rule, &format!("{path}.x-kubernetes-validations[{index}]"), place);
        }
    }

    fn rule(&mut self, rule: &Rule, at: &str, place: &Place<'_>) {
        let Some(decl) = &place.decl else { return };
        let this = decl.as_type();
        let old = if rule.optional_old_self { Ty::Optional(Arc::new(this.clone())) } else { this.clone() };
        let variables = [("self", this), ("oldSelf", old)];
        let expression = &rule.program;
        match check(expression, &variables, &Ty::Bool) {
            Ok(checked) => {
                let occurs = place.occurs.unwrap_or_else(|| decl.cardinality());
                let cost = estimate(expression, &checked, decl).max.saturating_mul(occurs);
                self.observe(format!("{at}.rule"), &rule.text, cost, "estimated rule cost");
            }
            Err(why) => {
                let text = Value::String(rule.text.clone());
                self.errors.push(FieldError::invalid(format!("{at}.rule"), text, why));
            }
        }
        if let Some(message) = &rule.message_expression {
            match check(message, &variables, &Ty::String) {
                Ok(checked) => self.message(at, rule, estimate(message, &checked, decl).max),
                Err(why) => {
                    let text = Value::String(rule.text.clone());
                    self.errors.push(FieldError::invalid(format!("{at}.messageExpression"), text, why));
                }
            }
        }
        if rule.transition {
            if let Some(list) = place.uncorrelatable {
                let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {list}");
                let text = Value::String(rule.text.clone());
                self.errors.push(FieldError::invalid(format!("{at}.rule"), text, why));
            }
        } else if rule.optional_old_self {
            let why = "may not be set if oldSelf is not used in rule";
            self.errors.push(FieldError::invalid(format!("{at}.optionalOldSelf"), Value::Bool(true), why));
        }
    }

    fn message(&mut self, at: &str, rule: &Rule, cost: u64) {
        self.observe(format!("{at}.messageExpression"), &rule.text, cost, "estimated messageExpression cost");
    }

    fn observe(&mut self, path: String, text: &str, cost: u64, what: &str) {
        if cost > RULE_LIMIT {
            self.errors.push(FieldError::forbidden(&path, exceeds(what, cost, RULE_LIMIT)));
        }
        self.costs.push(RuleCost { path, rule: text.to_owned(), cost });
    }
}
