//! What the API server finds in rules when a definition is created: names, fields and overloads that do not exist.
//! The types that it finds on the way are what costs are estimated from.

use std::{collections::HashMap, sync::Arc};

use kube_cel::cel::{
    IdedExpr,
    common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, SelectExpr},
};

use super::{decl::Ty, escape, functions};

/// Names of types, which are values.
pub const TYPES: [&str; 10] = ["int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type"];

/// What is known of a checked expression.
#[derive(Debug, Default)]
pub struct Checked {
    types: HashMap<u64, Ty>,
}

impl Checked {
    /// The type of an expression.
    pub fn ty(&self, expr: &IdedExpr) -> &Ty {
        self.types.get(&expr.id).unwrap_or(&Ty::Dyn)
    }
}

/// Checks an expression with these variables, which must yield `wanted`.
pub fn check(expr: &IdedExpr, variables: &[(&str, Ty)], wanted: &Ty) -> Result<Checked, String> {
    let scope = variables.iter().map(|(name, ty)| ((*name).to_owned(), ty.clone())).collect();
    let mut checker = Checker { scope, formatting: false, checked: Checked::default() };
    let found = checker.infer(expr).map_err(|why| format!("compilation failed: ERROR: <input>:1:1: {why}"))?;
    if matches!((&found, wanted), (Ty::Bool, Ty::Bool) | (Ty::String, Ty::String)) {
        return Ok(checker.checked);
    }
    Err(match wanted {
        Ty::Bool => "cel expression must evaluate to a bool".into(),
        _ => "messageExpression must evaluate to a string".into(),
    })
}

/// The function that a call means: `sets.contains` is no member of a variable.
pub fn function_name(call: &CallExpr, is_variable: impl Fn(&str) -> bool) -> (String, Option<&IdedExpr>) {
    match call.target.as_deref() {
        Some(IdedExpr { expr: Expr::Ident(prefix), .. })
            if functions::qualified(prefix, &call.func_name) && !is_variable(prefix) =>
        {
            (format!("{prefix}.{}", call.func_name), None)
        }
        target => (call.func_name.clone(), target),
    }
}

struct Checker {
    scope: Vec<(String, Ty)>,
    /// Inside the arguments of `format`, whose lists may be of several types.
    formatting: bool,
    checked: Checked,
}

impl Checker {
    fn infer(&mut self, expr: &IdedExpr) -> Result<Ty, String> {
        let ty = match &expr.expr {
            Expr::Literal(literal) => literal_type(literal),
            Expr::Ident(name) => self.ident(name)?,
            Expr::Select(select) => self.select(select)?,
            Expr::Call(call) => self.call(call)?,
            Expr::List(list) => {
                let mut item: Option<Ty> = None;
                for (index, element) in list.elements.iter().enumerate() {
                    let mut found = self.infer(element)?;
                    if let Ty::Optional(inner) = &found
                        && list.optional_indices.contains(&index)
                    {
                        found = (**inner).clone();
                    }
                    match &item {
                        Some(known) if !known.fits(&found) && !self.formatting => {
                            return Err(format!("expected type '{}' but found '{}'", known.name(), found.name()));
                        }
                        Some(_) => {}
                        None => item = Some(found),
                    }
                }
                Ty::List(Arc::new(item.unwrap_or(Ty::Dyn)))
            }
            Expr::Map(map) => {
                let mut entry: Option<(Ty, Ty)> = None;
                for found in &map.entries {
                    if let EntryExpr::MapEntry(found) = &found.expr {
                        let found = (self.infer(&found.key)?, self.infer(&found.value)?);
                        entry.get_or_insert(found);
                    }
                }
                let (key, value) = entry.unwrap_or((Ty::Dyn, Ty::Dyn));
                Ty::Map(Arc::new(key), Arc::new(value))
            }
            Expr::Comprehension(walk) => self.comprehension(walk)?,
            Expr::Struct(object) => {
                return Err(format!("undeclared reference to '{}' (in container '')", object.type_name));
            }
            Expr::Unspecified => Ty::Dyn,
        };
        self.checked.types.insert(expr.id, ty.clone());
        Ok(ty)
    }

    fn variable(&self, name: &str) -> Option<&Ty> {
        self.scope.iter().rev().find(|(known, _)| known == name).map(|(_, ty)| ty)
    }

    fn ident(&self, name: &str) -> Result<Ty, String> {
        match self.variable(name) {
            Some(ty) => Ok(ty.clone()),
            None if TYPES.contains(&name) => Ok(Ty::Type),
            None => Err(format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    fn select(&mut self, select: &SelectExpr) -> Result<Ty, String> {
        let operand = self.infer(&select.operand)?;
        let found = field(&operand, &select.field)?;
        Ok(if select.test { Ty::Bool } else { found })
    }

    fn call(&mut self, call: &CallExpr) -> Result<Ty, String> {
        if call.func_name == "_?._" {
            return self.optional_select(call);
        }
        let (name, target) = function_name(call, |prefix| self.variable(prefix).is_some());
        let target = target.map(|target| self.infer(target)).transpose()?;
        let outside = self.formatting;
        self.formatting |= name == "format";
        let args = call.args.iter().map(|arg| self.infer(arg)).collect::<Result<Vec<_>, _>>();
        self.formatting = outside;
        let args = args?;
        if matches!(name.as_str(), "_&&_" | "_||_")
            && let Some(other) = args.iter().find(|arg| !arg.fits(&Ty::Bool))
        {
            return Err(format!("expected type 'bool' but found '{}'", other.name()));
        }
        let operator = name.starts_with(['_', '!', '-', '@']);
        let found = if operator {
            functions::operator(&name, &args)
        } else {
            match functions::function(&name, target.as_ref(), &args) {
                Some(found) => found,
                None => return Err(format!("undeclared reference to '{name}' (in container '')")),
            }
        };
        found.ok_or_else(|| {
            let names: Vec<String> = args.iter().map(Ty::name).collect();
            let on = target.map(|t| format!("{}.", t.name())).unwrap_or_default();
            format!("found no matching overload for '{name}' applied to '{on}({})'", names.join(", "))
        })
    }

    fn optional_select(&mut self, call: &CallExpr) -> Result<Ty, String> {
        let [operand, IdedExpr { expr: Expr::Literal(LiteralValue::String(name)), .. }] = call.args.as_slice() else {
            return Err("unsupported optional field selection".into());
        };
        let name = name.inner().to_owned();
        let operand = match self.infer(operand)? {
            Ty::Optional(inner) => (*inner).clone(),
            other => other,
        };
        let found = field(&operand, &name)?;
        Ok(if matches!(found, Ty::Optional(_)) { found } else { Ty::Optional(Arc::new(found)) })
    }

    fn comprehension(&mut self, walk: &ComprehensionExpr) -> Result<Ty, String> {
        let (key, item) = match self.infer(&walk.iter_range)? {
            Ty::List(item) => (Ty::Int, (*item).clone()),
            Ty::Map(key, value) if walk.iter_var2.is_some() => ((*key).clone(), (*value).clone()),
            Ty::Map(key, _) => (Ty::Int, (*key).clone()),
            Ty::Dyn => (Ty::Dyn, Ty::Dyn),
            other => {
                let name = other.name();
                return Err(format!(
                    "expression of type '{name}' cannot be range of a comprehension (must be list, map, or dynamic)"
                ));
            }
        };
        let depth = self.scope.len();
        let mut result = self.infer(&walk.accu_init)?;
        if let Some(second) = &walk.iter_var2 {
            self.scope.push((walk.iter_var.clone(), key));
            self.scope.push((second.clone(), item));
        } else {
            self.scope.push((walk.iter_var.clone(), item));
        }
        let accumulator = self.scope.len();
        self.scope.push((walk.accu_var.clone(), result.clone()));
        self.infer(&walk.loop_cond)?;
        let step = self.infer(&walk.loop_step)?;
        // What an empty list collects is known after the first step.
        if matches!(result, Ty::List(_) | Ty::Map(..)) {
            self.scope[accumulator].1 = step;
            result = self.infer(&walk.loop_step)?;
            self.checked.types.insert(walk.accu_init.id, result.clone());
        }
        self.scope[accumulator].1 = result;
        let result = self.infer(&walk.result)?;
        self.scope.truncate(depth);
        Ok(result)
    }
}

fn literal_type(literal: &LiteralValue) -> Ty {
    match literal {
        LiteralValue::Boolean(_) => Ty::Bool,
        LiteralValue::Bytes(_) => Ty::Bytes,
        LiteralValue::Double(_) => Ty::Double,
        LiteralValue::Int(_) => Ty::Int,
        LiteralValue::Null => Ty::Null,
        LiteralValue::String(_) => Ty::String,
        LiteralValue::UInt(_) => Ty::Uint,
    }
}

fn field(ty: &Ty, name: &str) -> Result<Ty, String> {
    match ty {
        // A reserved word may be written as it is, too.
        Ty::Object(decl) => match decl.fields.get(name).or_else(|| decl.fields.get(&escape(name)?)) {
            Some(field) => Ok(field.as_type()),
            None => Err(format!("undefined field '{name}'")),
        },
        Ty::Map(_, value) => Ok((**value).clone()),
        Ty::Dyn => Ok(Ty::Dyn),
        Ty::Optional(inner) => Ok(Ty::Optional(Arc::new(field(inner, name)?))),
        other => Err(format!("type '{}' does not support field selection", other.name())),
    }
}
