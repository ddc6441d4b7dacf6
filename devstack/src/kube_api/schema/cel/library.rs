//! What the functions of the libraries cost, estimated (`EstimateCallCost` of `k8s.io/apiserver/pkg/cel/library/cost.go`
//! and of `cel-go`) and counted (`CallCost`).

use kube_cel::cel::Value;

use super::{
    decl::Ty,
    estimate::{Coster, Node},
    range::{Cost, Size, UNKNOWN, by_factor},
};

/// Going through a string once.
const TRAVERSAL: f64 = 0.1;
/// A pattern is taken to have one expression in four characters.
const PATTERN: f64 = 0.25;
/// The longest pattern behind a named format.
const FORMAT_PATTERN: f64 = 128.0;
/// A new list, of the list functions.
const ALLOCATION: u64 = 1 + 10;

/// The estimate of a library's function; none leaves it to [`standard`].
pub(super) fn estimate(
    coster: &Coster<'_>,
    name: &str,
    target: Option<&Node<'_>>,
    args: &[Node<'_>],
) -> Option<(Cost, Option<Size>)> {
    let one = Some((Cost::fixed(1), None));
    let subject = target.or(args.first()).map_or(UNKNOWN, Node::size);
    let first = args.first().map_or(UNKNOWN, Node::size);
    match name {
        "sets.contains" | "sets.intersects" | "sets.equivalent" => {
            let factor = if name == "sets.equivalent" { 2.0 } else { 1.0 };
            Some((first.times(args[1].size()).times_factor(factor) + Cost::fixed(1), None))
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
            let target = target?;
            Some(match coster.items(target) {
                Some((Ty::String | Ty::Bytes, item)) => {
                    (target.size().times(Cost::fixed(1) + item.times_factor(TRAVERSAL)), None)
                }
                Some(_) => (target.size(), None),
                None => (target.size().times_factor(TRAVERSAL), None),
            })
        }
        "url" => Some((first.times_factor(TRAVERSAL), Some(first))),
        "lowerAscii" | "upperAscii" | "substring" | "trim" => Some((subject.times_factor(TRAVERSAL), Some(subject))),
        "replace" => Some((subject.times_factor(2.0 * TRAVERSAL), Some(replaced(subject, first, args.get(1)?.size())))),
        "split" => {
            let most = args.get(1).and_then(Node::int).unwrap_or(subject.max);
            Some((subject.times_factor(2.0 * TRAVERSAL), Some(Size { min: 0, max: most })))
        }
        "join" => {
            let list = target?;
            let mut size = coster.items(list).map_or(Size::ZERO, |(_, item)| list.size().times(item));
            if let Some(separator) = args.first() {
                let gaps = Size { min: list.size().min.saturating_sub(1), max: list.size().max.saturating_sub(1) };
                size = size + separator.size().times(gaps);
            }
            Some((size.times_factor(TRAVERSAL), Some(size)))
        }
        "find" | "findAll" => {
            let cost = (subject + Size::fixed(1)).times_factor(TRAVERSAL).times(first.times_factor(PATTERN));
            Some((cost, Some(Size { min: 0, max: subject.max })))
        }
        "ip" if target.is_some() => one,
        "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
            Some((first.times_factor(TRAVERSAL), None))
        }
        "ip.isCanonical" => Some((first.times_factor(2.0 * TRAVERSAL), None)),
        "containsIP" | "containsCIDR" => Some((contains_address(name, args.first()?), None)),
        "validate" => Some((first.times_factor(TRAVERSAL).times_factor(FORMAT_PATTERN * PATTERN), None)),
        "format.named" => one,
        "_==_" => {
            let same = matches!((args[0].ty, args[1].ty), (Ty::Named(a), Ty::Named(b)) if a == b);
            if same { one } else { None }
        }
        "slice" => {
            let end = args.get(1)?.int().unwrap_or(subject.max);
            Some(allocating(1.0, Size::fixed(end.wrapping_sub(args[0].int().unwrap_or(0)))))
        }
        "lists.range" => Some(allocating(1.0, Size::fixed(args.first()?.int().unwrap_or(u64::MAX)))),
        "reverse" => Some(allocating(1.0, subject)),
        "flatten" => {
            let depth = args.first().map_or(1, |depth| depth.int().unwrap_or(u64::MAX));
            Some(allocating(depth as f64, subject))
        }
        "distinct" => Some(allocating(2.0, subject.times(subject))),
        "sort" => {
            let texts =
                target.is_some_and(|t| matches!(t.ty, Ty::List(item) if matches!(**item, Ty::String | Ty::Bytes)));
            Some(allocating(if texts { 2.0 + TRAVERSAL } else { 2.0 }, subject.times(subject)))
        }
        _ if ACCESSORS.contains(&name) => one,
        _ => None,
    }
}

/// Functions that only read what was parsed before.
const ACCESSORS: [&str; 29] = [
    "masked",
    "prefixLength",
    "family",
    "isUnspecified",
    "isLoopback",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isGlobalUnicast",
    "sign",
    "asInteger",
    "isInteger",
    "asApproximateFloat",
    "isGreaterThan",
    "isLessThan",
    "compareTo",
    "add",
    "sub",
    "major",
    "minor",
    "patch",
    "getScheme",
    "getHostname",
    "getHost",
    "getPort",
    "getEscapedPath",
    "getQuery",
    "name",
    "namespace",
    "path",
];

fn allocating(factor: f64, size: Size) -> (Cost, Option<Size>) {
    (size.times_factor(factor) + Cost::fixed(ALLOCATION), Some(size))
}

fn contains_address(name: &str, argument: &Node<'_>) -> Cost {
    let address = Size { min: 4, max: 16 };
    let mut cost = (address + address).times_factor(TRAVERSAL);
    if name == "containsCIDR" {
        cost = cost + address.times_factor(TRAVERSAL) + Cost::fixed(1);
    }
    if matches!(argument.ty, Ty::String) {
        cost = cost + argument.size().times_factor(TRAVERSAL);
    }
    cost
}

/// How long a text can be after `replace`.
fn replaced(size: Size, old: Size, new: Size) -> Size {
    let divided = |a: u64, b: u64| (a as f64 / b as f64).ceil() as u64;
    let (mut count, mut kept) = (Size::ZERO, Size::ZERO);
    if old.min == 0 {
        (count.max, kept.max) = (size.max.saturating_add(1), size.max);
    } else if new.max <= old.min {
        kept.max = size.max;
    } else {
        count.max = divided(size.max, old.min);
    }
    if old.max == 0 {
        (count.min, kept.min) = (size.min.saturating_add(1), size.min);
    } else if old.max <= new.min {
        kept.min = size.min;
    } else {
        count.min = divided(size.min, old.max);
    }
    count.times(new) + kept
}

/// The estimate of CEL's own functions.
pub(super) fn standard(name: &str, target: Option<&Node<'_>>, args: &[Node<'_>]) -> Cost {
    let size = |n: usize| args.get(n).map_or(UNKNOWN, Node::size);
    match (name, target, args) {
        ("format", Some(target), _) => target.size().times_factor(TRAVERSAL),
        ("bytes", _, [a]) if matches!(a.ty, Ty::String) => size(0).times_factor(TRAVERSAL),
        ("string", _, [a]) if matches!(a.ty, Ty::Bytes) => size(0).times_factor(TRAVERSAL),
        ("strings.quote" | "startsWith" | "endsWith", _, [_]) => size(0).times_factor(TRAVERSAL),
        ("@in", _, [_, list]) if matches!(list.ty, Ty::List(_) | Ty::Dyn) => {
            // A map is looked up at once; what may be either costs between the two.
            let cost = size(1);
            if matches!(list.ty, Ty::Dyn) { cost.union(Cost::fixed(1)) } else { cost }
        }
        ("matches", Some(target), [_]) => {
            (target.size() + Size::fixed(1)).times_factor(TRAVERSAL).times(size(0).times_factor(PATTERN))
        }
        ("contains", Some(target), [_]) => target.size().times_factor(TRAVERSAL).times(size(0).times_factor(TRAVERSAL)),
        ("_<_" | "_<=_" | "_>_" | "_>=_", _, [a, b])
            if !matches!(a.ty, Ty::String | Ty::Bytes | Ty::Dyn)
                || !matches!(b.ty, Ty::String | Ty::Bytes | Ty::Dyn) =>
        {
            Cost::fixed(1)
        }
        ("_<_" | "_<=_" | "_>_" | "_>=_" | "_==_" | "_!=_", _, [_, _]) => {
            let most = size(0).max.min(size(1).max);
            Cost { min: u64::from(most > 0), max: most }.times_factor(TRAVERSAL)
        }
        _ => Cost::fixed(1),
    }
}

/// The size of what CEL's own functions yield, where it follows from the sizes of their arguments.
pub(super) fn standard_size(name: &str, args: &[Node<'_>]) -> Option<Size> {
    let size = args.first()?.size();
    match (name, args.first()?.ty) {
        ("bytes", Ty::String) => Some(Size { min: size.min, max: size.max.wrapping_mul(4) }),
        ("string", Ty::Bytes) => Some(Size { min: size.min / 4, max: size.max }),
        ("strings.quote", _) => Some(Size { min: size.min + 2, max: size.max.wrapping_mul(2).wrapping_add(2) }),
        _ => None,
    }
}

/// What a call that was made has cost. `args` begin with the target.
pub(super) fn counted(name: &str, args: &[Option<&Value>], result: Option<&Value>) -> u64 {
    let size = |n: usize| args.get(n).copied().flatten().map_or(1, actual_size);
    let traversal = |n: usize| by_factor(size(n), TRAVERSAL);
    let text = |n: usize| matches!(args.get(n), Some(Some(Value::String(_) | Value::Bytes(_))));
    match name {
        "sets.contains" | "sets.intersects" => 1 + size(0) * size(1),
        "sets.equivalent" => 1 + size(0) * size(1) * 2,
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
            args.first().copied().flatten().map_or(1, traverse)
        }
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" => traversal(0),
        "replace" | "split" | "ip.isCanonical" => by_factor(size(0), 2.0 * TRAVERSAL),
        "join" => by_factor(result.map_or(1, actual_size), 2.0 * TRAVERSAL),
        "find" | "findAll" | "matches" => pattern(size(0), size(1) as f64),
        "ip" if !text(0) => 1,
        "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => traversal(0),
        "containsIP" | "containsCIDR" => {
            let own = by_factor(2 * size(0), TRAVERSAL);
            let masked = if name == "containsCIDR" { traversal(0) + 1 } else { 0 };
            own + masked + if text(1) { traversal(1) } else { 0 }
        }
        // A real server counts with the format's own pattern, which is shorter for most.
        "validate" => pattern(size(1), FORMAT_PATTERN),
        "slice" | "lists.range" | "reverse" if !text(0) => ALLOCATION + result.map_or(1, actual_size),
        "flatten" => match args.get(1) {
            Some(Some(Value::Int(depth))) => ALLOCATION + size(0) * u64::try_from(*depth).unwrap_or(0),
            _ => ALLOCATION + size(0),
        },
        "distinct" | "sort" => {
            let texts = matches!(args.first(), Some(Some(Value::List(list)))
                if matches!(list.first(), Some(Value::String(_) | Value::Bytes(_))));
            let factor = if texts { 2.0 + TRAVERSAL } else { 2.0 };
            ALLOCATION + ((size(0) * size(0)) as f64 * factor) as u64
        }
        "startsWith" | "endsWith" | "strings.quote" | "format" => traversal(0),
        "bytes" | "string" if text(0) && matches!(args[0], Some(Value::Bytes(_))) == (name == "string") => traversal(0),
        "@in" if matches!(args.get(1), Some(Some(Value::List(_)))) => size(1),
        "_==_" if matches!(args, [Some(Value::Opaque(_)), _]) => 1,
        "_==_" | "_!=_" => by_factor(size(0).min(size(1)), TRAVERSAL),
        "_<_" | "_<=_" | "_>_" | "_>=_" if text(0) && text(1) => by_factor(size(0).min(size(1)), TRAVERSAL),
        "_+_" if text(0) && text(1) => by_factor(size(0) + size(1), TRAVERSAL),
        "contains" => traversal(0) * traversal(1),
        _ => 1,
    }
}

fn pattern(text: u64, pattern: f64) -> u64 {
    by_factor(text + 1, TRAVERSAL) * (pattern * PATTERN).ceil() as u64
}

/// The size of a value: characters, bytes, items or entries; one for what has none.
pub(super) fn actual_size(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.chars().count() as u64,
        Value::Bytes(bytes) => bytes.len() as u64,
        Value::List(list) => list.len() as u64,
        Value::Map(map) => map.map.len() as u64,
        _ => 1,
    }
}

/// Going through a value with all that is in it.
fn traverse(value: &Value) -> u64 {
    match value {
        Value::String(text) => (text.len() as f64 * TRAVERSAL) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * TRAVERSAL) as u64,
        Value::List(list) => list.iter().map(traverse).sum(),
        Value::Map(map) => map.map.iter().map(|(key, value)| traverse(&key.into()) + traverse(value)).sum(),
        _ => 1,
    }
}
