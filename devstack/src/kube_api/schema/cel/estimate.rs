//! What a rule can cost at most, as `cel-go` estimates it (`checker/cost.go`): the sizes that the schema allows, times
//! what is done with each. The functions of the libraries are in `library`.

use std::collections::HashMap;

use kube_cel::cel::{
    IdedExpr,
    common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, SelectExpr},
};

use super::{
    check::{Checked, function_name},
    decl::{Decl, Ty},
    library,
    range::{Cost, Size, UNKNOWN},
};

/// The cost of one evaluation, at least and at most.
pub fn estimate(expr: &IdedExpr, checked: &Checked, root: &Decl) -> Cost {
    let mut coster = Coster {
        checked,
        root,
        paths: HashMap::new(),
        locals: HashMap::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
    };
    coster.cost(expr)
}

/// Where in the schema a value comes from; `@items` and `@values` stand for the entries of a list and a map.
type Path = Vec<String>;

/// The sizes of the keys and the values of a list or map that the expression itself makes.
#[derive(Clone, Copy)]
struct Entries {
    of_list: bool,
    key: Size,
    value: Size,
}

impl Entries {
    fn union(self, other: Self) -> Self {
        Self { of_list: self.of_list, key: self.key.union(other.key), value: self.value.union(other.value) }
    }
}

#[derive(Clone)]
struct Local {
    path: Path,
    size: Option<Size>,
    entries: Option<Entries>,
}

/// An operand, as the libraries see it.
pub struct Node<'a> {
    pub ty: &'a Ty,
    pub size: Option<Size>,
    path: Path,
    expr: &'a IdedExpr,
}

impl Node<'_> {
    pub fn size(&self) -> Size {
        self.size.unwrap_or(UNKNOWN)
    }

    pub fn int(&self) -> Option<u64> {
        match &self.expr.expr {
            Expr::Literal(LiteralValue::Int(n)) => u64::try_from(*n.inner()).ok(),
            _ => None,
        }
    }
}

pub(super) struct Coster<'a> {
    checked: &'a Checked,
    root: &'a Decl,
    paths: HashMap<u64, Path>,
    locals: HashMap<&'a str, Vec<Local>>,
    sizes: HashMap<u64, Size>,
    entries: HashMap<u64, Entries>,
}

impl<'a> Coster<'a> {
    fn cost(&mut self, expr: &'a IdedExpr) -> Cost {
        match &expr.expr {
            Expr::Literal(_) | Expr::Unspecified | Expr::Struct(_) => Cost::ZERO,
            Expr::Ident(name) => {
                let path = match self.local(name) {
                    Some(local) => local.path.clone(),
                    None => vec![name.clone()],
                };
                self.paths.insert(expr.id, path);
                Cost::fixed(1)
            }
            Expr::Select(select) => self.select(expr, select),
            Expr::Call(call) => self.call(expr, call),
            Expr::List(list) => {
                let mut item = Size { min: if list.elements.is_empty() { 0 } else { u64::MAX }, max: 0 };
                let mut sum = Cost::fixed(10);
                for element in &list.elements {
                    sum = sum + self.cost(element);
                    item = item.union(self.size_of(element));
                }
                self.entries.insert(expr.id, Entries { of_list: true, key: Size::fixed(1), value: item });
                sum
            }
            Expr::Map(map) => {
                let none = Size { min: if map.entries.is_empty() { 0 } else { u64::MAX }, max: 0 };
                let (mut key, mut value, mut sum) = (none, none, Cost::fixed(30));
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        sum = sum + self.cost(&entry.key) + self.cost(&entry.value);
                        key = key.union(self.size_of(&entry.key));
                        value = value.union(self.size_of(&entry.value));
                    }
                }
                self.entries.insert(expr.id, Entries { of_list: false, key, value });
                sum
            }
            Expr::Comprehension(walk) => self.comprehension(expr, walk),
        }
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.get(name).and_then(|stack| stack.last())
    }

    fn path(&self, expr: &IdedExpr) -> Path {
        if let Expr::Ident(name) = &expr.expr
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned().unwrap_or_default()
    }

    fn below(&self, expr: &IdedExpr, name: &str) -> Path {
        let mut path = self.path(expr);
        path.push(name.to_owned());
        path
    }

    fn select(&mut self, expr: &IdedExpr, select: &'a SelectExpr) -> Cost {
        let operand = self.cost(&select.operand);
        // Presence costs nothing of its own.
        if select.test {
            return operand;
        }
        let path = self.below(&select.operand, &select.field);
        self.paths.insert(expr.id, path);
        match self.checked.ty(&select.operand) {
            Ty::Map(..) | Ty::Object(_) => operand + Cost::fixed(1),
            _ => operand,
        }
    }

    fn call(&mut self, expr: &'a IdedExpr, call: &'a CallExpr) -> Cost {
        let locals = &self.locals;
        let variable =
            |name: &str| matches!(name, "self" | "oldSelf") || locals.get(name).is_some_and(|s| !s.is_empty());
        let (name, target) = function_name(call, variable);
        if name == "dyn" && call.args.len() == 1 {
            let cost = self.cost(&call.args[0]);
            if let Some(size) = self.compute_size(&call.args[0]) {
                self.sizes.insert(expr.id, size);
            }
            if let Some(entries) = self.entries_of(&call.args[0]) {
                self.entries.insert(expr.id, entries);
            }
            return cost + Cost::fixed(1);
        }
        let mut costs = Vec::new();
        let mut args = Vec::new();
        for arg in &call.args {
            costs.push(self.cost(arg));
            args.push(self.node(arg));
        }
        let before = target.map_or(Cost::ZERO, |target| self.cost(target));
        let target = target.map(|target| self.node(target));
        let (cost, mut size) = self.function(expr, &name, target.as_ref(), &args, &costs);
        if name == "_[_]" {
            let step = if matches!(args[0].ty, Ty::List(_)) { "@items" } else { "@values" };
            size = self.entries_of(&call.args[0]).map(|entries| entries.value);
            let path = self.below(&call.args[0], step);
            self.paths.insert(expr.id, path);
        }
        if let Some(size) = size.or_else(|| self.compute_size(expr)) {
            self.sizes.insert(expr.id, size);
        }
        before + cost
    }

    fn node(&mut self, expr: &'a IdedExpr) -> Node<'a> {
        let mut path = self.path(expr);
        if path.first().is_some_and(|root| root.starts_with('@')) {
            path.clear();
        }
        Node { ty: self.checked.ty(expr), size: self.compute_size(expr), path, expr }
    }

    /// The size of the items of a list operand, for functions that go through them.
    pub(super) fn items(&self, list: &Node<'_>) -> Option<(Ty, Size)> {
        let Ty::List(item) = list.ty else { return None };
        let mut path = list.path.clone();
        if !path.is_empty() {
            path.push("@items".into());
        }
        Some(((**item).clone(), self.declared(&path).unwrap_or(UNKNOWN)))
    }

    fn function(
        &mut self,
        expr: &IdedExpr,
        name: &str,
        target: Option<&Node<'a>>,
        args: &[Node<'a>],
        costs: &[Cost],
    ) -> (Cost, Option<Size>) {
        let sum = costs.iter().fold(Cost::ZERO, |sum, cost| sum + *cost);
        if let Some((cost, size)) = library::estimate(self, name, target, args) {
            return (cost + sum, size);
        }
        match (name, args) {
            ("_&&_" | "_||_", [_, _]) => (Cost { min: costs[0].min, max: sum.max }, None),
            ("_?_:_", [_, yes, no]) => {
                if let (Some(a), Some(b)) = (self.entries_of(yes.expr), self.entries_of(no.expr)) {
                    self.entries.insert(expr.id, a.union(b));
                }
                (costs[0] + costs[1].union(costs[2]), Some(yes.size().union(no.size())))
            }
            ("_+_", [a, b]) if sized(a.ty) || sized(b.ty) => {
                if let (Some(x), Some(y)) = (self.entries_of(a.expr), self.entries_of(b.expr)) {
                    self.entries.insert(expr.id, x.union(y));
                }
                let size = a.size() + b.size();
                let lists = matches!(a.ty, Ty::List(_)) || matches!(b.ty, Ty::List(_));
                (if lists { Cost::fixed(1) } else { size.times_factor(0.1) } + sum, Some(size))
            }
            _ => (library::standard(name, target, args) + sum, library::standard_size(name, args)),
        }
    }

    fn comprehension(&mut self, expr: &'a IdedExpr, walk: &'a ComprehensionExpr) -> Cost {
        let mut sum = self.cost(&walk.iter_range) + self.cost(&walk.accu_init);
        let accumulator = Local {
            path: self.path(&walk.accu_init),
            size: self.compute_size(&walk.accu_init),
            entries: self.entries_of(&walk.accu_init),
        };
        self.locals.entry(&walk.accu_var).or_default().push(accumulator);
        let entries = self.entries_of(&walk.iter_range);
        let of_list = entries.map_or_else(|| matches!(self.checked.ty(&walk.iter_range), Ty::List(_)), |e| e.of_list);
        let push = |name: &'a str, step: &str, size: Option<Size>, this: &mut Self| {
            let local = Local { path: this.below(&walk.iter_range, step), size, entries: None };
            this.locals.entry(name).or_default().push(local);
        };
        let (key, value) = (entries.map(|e| e.key), entries.map(|e| e.value));
        if let Some(second) = &walk.iter_var2 {
            push(&walk.iter_var, if of_list { "@indices" } else { "@keys" }, key, self);
            push(second, if of_list { "@items" } else { "@values" }, value, self);
        } else if of_list {
            push(&walk.iter_var, "@items", value, self);
        } else {
            push(&walk.iter_var, "@keys", key, self);
        }
        let each = self.cost(&walk.loop_cond) + self.cost(&walk.loop_step);
        for name in std::iter::once(&walk.iter_var).chain(&walk.iter_var2) {
            self.locals.entry(name).or_default().pop();
        }
        sum = sum + self.cost(&walk.result);
        self.locals.entry(&walk.accu_var).or_default().pop();
        let count = self.size_of(&walk.iter_range);
        match &walk.accu_init.expr {
            Expr::Literal(_) => {
                if let Some(size) = self.compute_size(&walk.accu_init) {
                    self.sizes.insert(expr.id, size);
                }
            }
            Expr::List(_) | Expr::Map(_) => {
                self.sizes.insert(expr.id, count);
                if let Some(entries) = self.entries_of(&walk.loop_step) {
                    self.entries.insert(expr.id, entries);
                }
            }
            _ => {}
        }
        sum + count.times(each)
    }

    fn size_of(&mut self, expr: &IdedExpr) -> Size {
        self.compute_size(expr).unwrap_or(UNKNOWN)
    }

    fn compute_size(&mut self, expr: &IdedExpr) -> Option<Size> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        if let Some(size) = literal_size(&expr.expr) {
            return Some(size);
        }
        if let Some(size) = self.declared(&self.path(expr)) {
            self.sizes.insert(expr.id, size);
            return Some(size);
        }
        if self.checked.ty(expr).is_scalar() {
            return Some(Size::fixed(1));
        }
        match &expr.expr {
            Expr::Ident(name) => self.local(name).and_then(|local| local.size),
            _ => None,
        }
    }

    fn entries_of(&self, expr: &IdedExpr) -> Option<Entries> {
        if let Some(entries) = self.entries.get(&expr.id) {
            return Some(*entries);
        }
        match &expr.expr {
            Expr::Ident(name) => self.local(name).and_then(|local| local.entries),
            _ => None,
        }
    }

    /// What the schema allows at a path.
    fn declared(&self, path: &[String]) -> Option<Size> {
        let mut node = self.root;
        for step in path.get(1..)? {
            node = match step.as_str() {
                "@items" | "@values" => node.element()?,
                // Keys are strings without a limit of their own.
                "@keys" if node.is_map() => return Some(Size { min: 0, max: 0 }),
                name => node.fields.get(name)?,
            };
        }
        Some(Size { min: 0, max: node.max_elements })
    }
}

fn sized(ty: &Ty) -> bool {
    matches!(ty, Ty::String | Ty::Bytes | Ty::List(_) | Ty::Dyn)
}

fn literal_size(expr: &Expr) -> Option<Size> {
    Some(Size::fixed(match expr {
        Expr::Literal(LiteralValue::String(text)) => text.inner().chars().count() as u64,
        Expr::Literal(LiteralValue::Bytes(bytes)) => bytes.inner().len() as u64,
        Expr::Literal(_) => 1,
        Expr::List(list) => list.elements.len() as u64,
        Expr::Map(map) => map.entries.len() as u64,
        _ => return None,
    }))
}
