//! Evaluation that counts what it costs, as `cel-go` does (`interpreter/runtimecost.go`): the server ends a rule that
//! costs too much. Operators are evaluated here; the functions of the libraries are those of `kube-cel`.

use std::{collections::HashMap, sync::Arc};

use kube_cel::cel::{
    Context, ExecutionError, IdedExpr, Value,
    common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, ListExpr, LiteralValue, MapExpr},
    objects::{Key, KeyRef, Map as CelMap, OptionalValue},
};

use super::{
    check::{TYPES, function_name},
    escape, library,
};

/// What one call of a rule may cost.
pub const CALL_LIMIT: u64 = 1_000_000;

/// Why there is no value.
#[derive(Debug)]
pub enum Stop {
    /// The call costs more than it may.
    Limit,
    /// `no such key`, `index out of bounds`, `no such overload`, …
    Failed(String),
}

/// Evaluates an expression; the cost counts also where there is no value.
pub fn run(expr: &IdedExpr, base: &Context<'_>, variables: &[(&str, Value)], limit: u64) -> (Result<Value, Stop>, u64) {
    let scope = variables.iter().map(|(name, value)| (*name, Ok(value.clone()))).collect();
    let mut run = Run { base, scope, cost: 0, limit };
    let value = run.eval(expr);
    (value, run.cost)
}

struct Run<'a, 'c> {
    base: &'a Context<'c>,
    /// Variables, the innermost last. A step of a comprehension may fail without failing the whole.
    scope: Vec<(&'a str, Result<Value, String>)>,
    cost: u64,
    limit: u64,
}

fn failed<T>(why: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Failed(why.into()))
}

fn overload<T>() -> Result<T, Stop> {
    failed("no such overload")
}

/// Whether an expression has its value already in the program: literals, and lists, maps and conversions of such.
fn constant(expr: &IdedExpr) -> bool {
    match &expr.expr {
        Expr::Literal(_) => true,
        Expr::List(list) => list.elements.iter().all(constant),
        Expr::Map(map) => map.entries.iter().all(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => constant(&entry.key) && constant(&entry.value),
            EntryExpr::StructField(_) => false,
        }),
        Expr::Call(call) => {
            const CONVERSIONS: [&str; 10] =
                ["bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"];
            call.target.is_none()
                && CONVERSIONS.contains(&call.func_name.as_str())
                && matches!(call.args.as_slice(), [only] if constant(only))
        }
        _ => false,
    }
}

/// Expressions that are planned as a variable with qualifiers.
fn attribute(expr: &IdedExpr) -> bool {
    match &expr.expr {
        Expr::Ident(_) | Expr::Select(_) => true,
        Expr::Call(call) => matches!(call.func_name.as_str(), "_[_]" | "_[?_]" | "_?._" | "_?_:_"),
        _ => false,
    }
}

/// Whether an attribute begins with `condition ? a : b`, which costs nothing of its own.
fn conditional(expr: &IdedExpr) -> bool {
    match &expr.expr {
        Expr::Select(select) => conditional(&select.operand),
        Expr::Call(call) if call.func_name == "_?_:_" => true,
        Expr::Call(call) if attribute(expr) => conditional(&call.args[0]),
        _ => false,
    }
}

impl<'a> Run<'a, '_> {
    fn spend(&mut self, cost: u64) -> Result<(), Stop> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(Stop::Limit) } else { Ok(()) }
    }

    fn eval(&mut self, expr: &'a IdedExpr) -> Result<Value, Stop> {
        if let Some(name) = self.type_name(expr) {
            return Ok(type_value(name));
        }
        if attribute(expr) {
            let value = self.resolve(expr);
            if matches!(value, Err(Stop::Limit)) {
                return value;
            }
            let free = conditional(expr) || matches!(&expr.expr, Expr::Select(select) if select.test);
            self.spend(u64::from(!free))?;
            return value;
        }
        match &expr.expr {
            Expr::Literal(literal) => Ok(value_of(literal)),
            Expr::Call(call) => self.call(expr, call),
            Expr::List(list) => self.list(expr, list),
            Expr::Map(map) => self.map(expr, map),
            Expr::Comprehension(walk) => self.fold(walk),
            _ => failed("unsupported expression"),
        }
    }

    /// The name of a type, where no variable has it.
    fn type_name(&self, expr: &'a IdedExpr) -> Option<&'a str> {
        match &expr.expr {
            Expr::Ident(name) if TYPES.contains(&name.as_str()) => {
                (!self.scope.iter().any(|(known, _)| known == name)).then_some(name)
            }
            _ => None,
        }
    }

    /// A variable with its qualifiers; each of them costs one.
    fn resolve(&mut self, expr: &'a IdedExpr) -> Result<Value, Stop> {
        match &expr.expr {
            Expr::Ident(name) => match self.scope.iter().rev().find(|(known, _)| known == name) {
                Some((_, Ok(value))) => Ok(value.clone()),
                Some((_, Err(why))) => failed(why.clone()),
                None => failed(format!("no such attribute(s): {name}")),
            },
            Expr::Select(select) => {
                let operand = self.operand(&select.operand)?;
                self.spend(1)?;
                match (&operand, select.test) {
                    (Value::Map(map), test) => {
                        let found = map.get(&KeyRef::String(&select.field));
                        // A reserved word may be written as it is; the value has its escaped name.
                        let found = found.or_else(|| map.get(&KeyRef::String(&escape(&select.field)?)));
                        match found {
                            found if test => Ok(Value::Bool(found.is_some())),
                            Some(value) => Ok(value.clone()),
                            None => failed(format!("no such key: {}", select.field)),
                        }
                    }
                    _ => self.reselect(operand, &select.field, select.test),
                }
            }
            Expr::Call(call) if call.func_name == "_?_:_" => match self.eval(&call.args[0])? {
                Value::Bool(yes) => self.operand(&call.args[if yes { 1 } else { 2 }]),
                _ => overload(),
            },
            Expr::Call(call) => {
                let operand = self.operand(&call.args[0])?;
                let index = match &call.args[1] {
                    index if constant(index) => self.eval(index)?,
                    index => self.operand(index)?,
                };
                self.spend(1)?;
                match (call.func_name.as_str(), &operand, &index) {
                    ("_[_]", Value::List(list), Value::Int(n)) => {
                        match usize::try_from(*n).ok().and_then(|n| list.get(n)) {
                            Some(value) => Ok(value.clone()),
                            None => failed(format!("index out of bounds: {n}")),
                        }
                    }
                    ("_[_]", Value::Map(map), key) => {
                        let found = match key {
                            Value::String(key) => map.get(&KeyRef::String(key)),
                            Value::Int(n) => map.get(&KeyRef::Int(*n)),
                            Value::UInt(n) => map.get(&KeyRef::Uint(*n)),
                            Value::Bool(b) => map.get(&KeyRef::Bool(*b)),
                            _ => return overload(),
                        };
                        match found {
                            Some(value) => Ok(value.clone()),
                            None => failed(format!("no such key: {}", show(key))),
                        }
                    }
                    ("_?._", Value::Map(map), Value::String(field)) => {
                        let found = map.get(&KeyRef::String(field)).cloned();
                        let optional = found.map_or_else(OptionalValue::none, OptionalValue::of);
                        Ok(Value::Opaque(Arc::new(optional)))
                    }
                    (name, _, _) => self.delegate(name, None, vec![operand.clone(), index.clone()]),
                }
            }
            _ => self.eval(expr),
        }
    }

    /// What an attribute goes on from: another attribute is part of the same one.
    fn operand(&mut self, expr: &'a IdedExpr) -> Result<Value, Stop> {
        if attribute(expr) { self.resolve(expr) } else { self.eval(expr) }
    }

    fn reselect(&self, operand: Value, field: &str, test: bool) -> Result<Value, Stop> {
        if !matches!(operand, Value::Opaque(_)) {
            return overload();
        }
        let found = self.delegate("_?._", None, vec![operand, Value::String(Arc::new(field.to_owned()))])?;
        if test { self.delegate("hasValue", Some(found), Vec::new()) } else { Ok(found) }
    }

    fn list(&mut self, expr: &'a IdedExpr, list: &'a ListExpr) -> Result<Value, Stop> {
        let folded = constant(expr);
        let mut items = Vec::with_capacity(list.elements.len());
        for (index, element) in list.elements.iter().enumerate() {
            let item = self.eval(element)?;
            if list.optional_indices.contains(&index) {
                let inner = self.delegate("hasValue", Some(item.clone()), Vec::new())?;
                if matches!(inner, Value::Bool(true)) {
                    items.push(self.delegate("value", Some(item), Vec::new())?);
                }
            } else {
                items.push(item);
            }
        }
        self.spend(if folded { 0 } else { 10 })?;
        Ok(Value::List(Arc::new(items)))
    }

    fn map(&mut self, expr: &'a IdedExpr, map: &'a MapExpr) -> Result<Value, Stop> {
        let folded = constant(expr);
        let mut entries = HashMap::with_capacity(map.entries.len());
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { return overload() };
            let key: Key = match self.eval(&entry.key)?.try_into() {
                Ok(key) => key,
                Err(_) => return failed("unsupported key type"),
            };
            entries.insert(key, self.eval(&entry.value)?);
        }
        self.spend(if folded { 0 } else { 30 })?;
        Ok(Value::Map(CelMap { map: Arc::new(entries) }))
    }

    fn fold(&mut self, walk: &'a ComprehensionExpr) -> Result<Value, Stop> {
        let range = self.eval(&walk.iter_range)?;
        let start = self.eval(&walk.accu_init)?;
        let items: Vec<(Value, Option<Value>)> = match &range {
            Value::List(list) => {
                let second = walk.iter_var2.is_some();
                let numbered = list.iter().zip(0_i64..);
                numbered
                    .map(|(v, n)| if second { (Value::Int(n), Some(v.clone())) } else { (v.clone(), None) })
                    .collect()
            }
            Value::Map(map) => {
                let mut entries: Vec<_> = map.map.iter().collect();
                entries.sort_by(|a, b| a.0.cmp(b.0));
                entries
                    .into_iter()
                    .map(|(key, value)| (key.into(), walk.iter_var2.is_some().then(|| value.clone())))
                    .collect()
            }
            _ => return overload(),
        };
        let depth = self.scope.len();
        self.scope.push((&walk.accu_var, Ok(start)));
        let result = self.steps(walk, items, depth);
        let result = result.and_then(|()| {
            self.scope.truncate(depth + 1);
            self.eval(&walk.result)
        });
        self.scope.truncate(depth);
        result
    }

    fn steps(
        &mut self,
        walk: &'a ComprehensionExpr,
        items: Vec<(Value, Option<Value>)>,
        accumulator: usize,
    ) -> Result<(), Stop> {
        for (first, second) in items {
            self.scope.truncate(accumulator + 1);
            self.scope.push((&walk.iter_var, Ok(first)));
            self.scope.extend(walk.iter_var2.as_deref().zip(second.map(Ok)));
            if matches!(self.eval(&walk.loop_cond)?, Value::Bool(false)) {
                break;
            }
            // What a step fails with stays until a later one decides, as `||` and `&&` do.
            let next = match self.eval(&walk.loop_step) {
                Err(Stop::Failed(why)) => Err(why),
                Err(stop) => return Err(stop),
                Ok(value) => Ok(value),
            };
            self.scope[accumulator].1 = next;
        }
        Ok(())
    }

    fn call(&mut self, expr: &'a IdedExpr, call: &'a CallExpr) -> Result<Value, Stop> {
        let name = call.func_name.as_str();
        match (name, call.args.as_slice()) {
            ("_&&_", [a, b]) => return self.logical(a, b, false),
            ("_||_", [a, b]) => return self.logical(a, b, true),
            // Decided when the program is made.
            ("@in", [_, IdedExpr { expr: Expr::List(list), .. }]) if list.elements.is_empty() => {
                return Ok(Value::Bool(false));
            }
            _ => {}
        }
        let scope = &self.scope;
        let (name, target) = function_name(call, |prefix| scope.iter().any(|(known, _)| *known == prefix));
        // The accumulator of `map` and `filter` is taken out, so that it grows in place.
        if let ("_+_", [IdedExpr { expr: Expr::Ident(accumulator), .. }, added]) = (name.as_str(), call.args.as_slice())
            && accumulator.starts_with('@')
        {
            return self.append(accumulator, added);
        }
        let mut args = Vec::with_capacity(call.args.len() + 1);
        for arg in target.into_iter().chain(&call.args) {
            match self.eval(arg) {
                Err(Stop::Limit) => return Err(Stop::Limit),
                other => args.push(other),
            }
        }
        let result = self.apply(&name, target.is_some(), &args);
        // The alternative of an optional costs what it is.
        let alternative = target.is_some() && matches!(name.as_str(), "or" | "orValue");
        let free = alternative || constant(expr) || (name == "@in" && constant(&call.args[1]) && primitives(&args[1]));
        if !free {
            let seen: Vec<Option<&Value>> = args.iter().map(|arg| arg.as_ref().ok()).collect();
            self.spend(library::counted(&name, &seen, result.as_ref().ok()))?;
        }
        result
    }

    fn append(&mut self, accumulator: &str, added: &'a IdedExpr) -> Result<Value, Stop> {
        self.spend(1)?;
        let added = self.eval(added)?;
        let Some((_, slot)) = self.scope.iter_mut().rev().find(|(known, _)| *known == accumulator) else {
            return overload();
        };
        let own = std::mem::replace(slot, Ok(Value::Null));
        self.spend(1)?;
        sum(own.map_err(Stop::Failed)?, added)
    }

    /// `&&` and `||`: the side that decides, whichever it is; an error only where neither does.
    fn logical(&mut self, a: &'a IdedExpr, b: &'a IdedExpr, decisive: bool) -> Result<Value, Stop> {
        let mut error = None;
        for side in [a, b] {
            match self.eval(side) {
                Ok(Value::Bool(value)) if value == decisive => return Ok(Value::Bool(decisive)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => error = error.or(Some("no such overload".into())),
                Err(Stop::Failed(why)) => error = error.or(Some(why)),
                Err(stop) => return Err(stop),
            }
        }
        match error {
            Some(why) => failed(why),
            None => Ok(Value::Bool(!decisive)),
        }
    }

    fn apply(&self, name: &str, member: bool, args: &[Result<Value, Stop>]) -> Result<Value, Stop> {
        if name == "@not_strictly_false" {
            return Ok(Value::Bool(!matches!(args, [Ok(Value::Bool(false))])));
        }
        let mut values = Vec::with_capacity(args.len());
        for arg in args {
            match arg {
                Ok(value) => values.push(value.clone()),
                Err(Stop::Failed(why)) => return failed(why.clone()),
                Err(Stop::Limit) => return Err(Stop::Limit),
            }
        }
        match (name, values.as_mut_slice()) {
            ("dyn", [value]) => Ok(value.clone()),
            ("type", [value]) => Ok(type_value(type_of(value))),
            ("_==_", [a, b]) => Ok(Value::Bool(a == b)),
            ("_!=_", [a, b]) => Ok(Value::Bool(a != b)),
            ("!_", [Value::Bool(b)]) => Ok(Value::Bool(!*b)),
            ("_<_", [a, b]) => compare(a, b, std::cmp::Ordering::is_lt),
            ("_<=_", [a, b]) => compare(a, b, std::cmp::Ordering::is_le),
            ("_>_", [a, b]) => compare(a, b, std::cmp::Ordering::is_gt),
            ("_>=_", [a, b]) => compare(a, b, std::cmp::Ordering::is_ge),
            ("@in", [a, Value::List(list)]) => Ok(Value::Bool(list.contains(a))),
            ("_+_", [a, b]) => sum(std::mem::replace(a, Value::Null), std::mem::replace(b, Value::Null)),
            _ => {
                let target = member.then(|| values.remove(0));
                self.delegate(name, target, values)
            }
        }
    }

    /// A function of the library, called with values.
    fn delegate(&self, name: &str, target: Option<Value>, args: Vec<Value>) -> Result<Value, Stop> {
        let mut scope = self.base.new_inner_scope();
        let mut variable = |name: String, value: Value| {
            scope.add_variable_from_value(name.clone(), value);
            IdedExpr { id: 0, expr: Expr::Ident(name) }
        };
        let mut call = CallExpr { func_name: name.to_owned(), ..CallExpr::default() };
        call.target = target.map(|value| Box::new(variable("@target".into(), value)));
        call.args = args.into_iter().enumerate().map(|(n, value)| variable(format!("@{n}"), value)).collect();
        if let Some((prefix, member)) = name.split_once('.').filter(|_| !name.starts_with('_')) {
            call.target = Some(Box::new(IdedExpr { id: 0, expr: Expr::Ident(prefix.to_owned()) }));
            call.func_name = member.to_owned();
        }
        Value::resolve(&IdedExpr { id: 0, expr: Expr::Call(call) }, &scope)
            .map_err(|error| Stop::Failed(worded(&error)))
    }
}

/// A type as a value: something that equals itself alone.
fn type_value(name: &str) -> Value {
    Value::Function(Arc::new(name.to_owned()), None)
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Int(_) => "int",
        Value::UInt(_) => "uint",
        Value::Float(_) => "double",
        Value::Bool(_) => "bool",
        Value::String(_) => "string",
        Value::Bytes(_) => "bytes",
        Value::List(_) => "list",
        Value::Map(_) => "map",
        Value::Null => "null_type",
        Value::Timestamp(_) => "google.protobuf.Timestamp",
        Value::Duration(_) => "google.protobuf.Duration",
        Value::Function(..) => "type",
        Value::Opaque(_) => "opaque",
    }
}

fn primitives(list: &Result<Value, Stop>) -> bool {
    matches!(list, Ok(Value::List(items)) if items.iter().all(|item| {
        matches!(item, Value::Bool(_) | Value::Int(_) | Value::UInt(_) | Value::Float(_) | Value::String(_))
    }))
}

fn compare(a: &Value, b: &Value, test: fn(std::cmp::Ordering) -> bool) -> Result<Value, Stop> {
    match a.partial_cmp(b) {
        Some(order) => Ok(Value::Bool(test(order))),
        None => overload(),
    }
}

fn sum(a: Value, b: Value) -> Result<Value, Stop> {
    (a + b).map_err(|error| Stop::Failed(worded(&error)))
}

fn show(key: &Value) -> String {
    match key {
        Value::String(text) => text.to_string(),
        Value::Int(n) => n.to_string(),
        Value::UInt(n) => n.to_string(),
        other => format!("{other:?}"),
    }
}

/// As `cel-go` words it, where the two differ.
fn worded(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
        ExecutionError::NoSuchOverload | ExecutionError::UnsupportedBinaryOperator(..) => "no such overload".into(),
        ExecutionError::DivisionByZero(_) => "division by zero".into(),
        ExecutionError::RemainderByZero(_) => "modulus by zero".into(),
        ExecutionError::Overflow(..) => "integer overflow".into(),
        ExecutionError::FunctionError { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

fn value_of(literal: &LiteralValue) -> Value {
    match literal {
        LiteralValue::Boolean(b) => Value::Bool(*b.inner()),
        LiteralValue::Bytes(bytes) => Value::Bytes(Arc::new(bytes.inner().to_vec())),
        LiteralValue::Double(n) => Value::Float(*n.inner()),
        LiteralValue::Int(n) => Value::Int(*n.inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::String(text) => Value::String(Arc::new(text.inner().to_owned())),
        LiteralValue::UInt(n) => Value::UInt(*n.inner()),
    }
}
