//! The functions that rules may call, with the types they take and give: CEL's own and the Kubernetes libraries of 1.36
//! (strings, lists, sets, regular expressions, URLs, quantities, IP addresses, CIDRs, formats, versions, optionals).

use std::sync::Arc;

use super::decl::Ty;

const QUANTITY: Ty = Ty::Named("kubernetes.Quantity");
const URL: Ty = Ty::Named("kubernetes.URL");
const IP: Ty = Ty::Named("net.IP");
const CIDR: Ty = Ty::Named("net.CIDR");
const SEMVER: Ty = Ty::Named("kubernetes.Semver");
const FORMAT: Ty = Ty::Named("kubernetes.NamedFormat");

/// Functions whose name has a prefix that is no variable: `sets.contains`.
pub fn qualified(prefix: &str, name: &str) -> bool {
    match prefix {
        "sets" => matches!(name, "contains" | "intersects" | "equivalent"),
        "optional" => matches!(name, "of" | "none" | "ofNonZeroValue"),
        "ip" => name == "isCanonical",
        "strings" => name == "quote",
        "lists" => name == "range",
        "format" => name == "named" || FORMATS.contains(&name),
        _ => false,
    }
}

const FORMATS: [&str; 15] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
    "duration",
    "semver",
];

fn list(item: &Ty) -> Ty {
    Ty::List(Arc::new(item.clone()))
}

fn optional(inner: Ty) -> Ty {
    Ty::Optional(Arc::new(inner))
}

fn is(ty: &Ty, wanted: &Ty) -> bool {
    ty.fits(wanted)
}

fn numeric(ty: &Ty) -> bool {
    matches!(ty, Ty::Int | Ty::Uint | Ty::Double | Ty::Dyn)
}

fn ordered(ty: &Ty) -> bool {
    numeric(ty) || matches!(ty, Ty::Bool | Ty::String | Ty::Bytes | Ty::Timestamp | Ty::Duration)
}

/// The type of an operator's result; none where no overload fits.
pub fn operator(name: &str, args: &[Ty]) -> Option<Ty> {
    Some(match (name, args) {
        ("_&&_" | "_||_", [a, b]) if is(a, &Ty::Bool) && is(b, &Ty::Bool) => Ty::Bool,
        ("!_" | "@not_strictly_false", [a]) if is(a, &Ty::Bool) => Ty::Bool,
        ("_?_:_", [condition, a, b]) if is(condition, &Ty::Bool) && a.fits(b) => {
            if matches!(a, Ty::Dyn | Ty::Null) {
                b.clone()
            } else {
                a.clone()
            }
        }
        ("_==_" | "_!=_", [a, b]) if a.fits(b) => Ty::Bool,
        ("_<_" | "_<=_" | "_>_" | "_>=_", [a, b])
            if ordered(a) && ordered(b) && (a.fits(b) || (numeric(a) && numeric(b))) =>
        {
            Ty::Bool
        }
        ("_+_", [a, b]) => add(a, b)?,
        ("_-_", [a, b]) => subtract(a, b)?,
        ("_*_" | "_/_", [a, b]) if numeric(a) && a.fits(b) => known(a, b),
        ("_%_", [a, b]) if matches!(a, Ty::Int | Ty::Uint | Ty::Dyn) && a.fits(b) => known(a, b),
        ("-_", [a @ (Ty::Int | Ty::Double | Ty::Dyn)]) => a.clone(),
        ("@in", [a, Ty::List(item)]) if a.fits(item) => Ty::Bool,
        ("@in", [a, Ty::Map(key, _)]) if a.fits(key) => Ty::Bool,
        ("@in", [_, Ty::Dyn]) => Ty::Bool,
        ("_[_]", [Ty::List(item), b]) if numeric(b) => (**item).clone(),
        ("_[_]", [Ty::Map(key, value), b]) if b.fits(key) => (**value).clone(),
        ("_[_]", [Ty::Optional(inner), b]) => optional(operator("_[_]", &[(**inner).clone(), b.clone()])?),
        ("_[_]", [Ty::Dyn, _]) => Ty::Dyn,
        ("_[?_]", [a, b]) => match operator("_[_]", &[a.clone(), b.clone()])? {
            already @ Ty::Optional(_) => already,
            value => optional(value),
        },
        _ => return None,
    })
}

fn known(a: &Ty, b: &Ty) -> Ty {
    if matches!(a, Ty::Dyn) { b.clone() } else { a.clone() }
}

fn add(a: &Ty, b: &Ty) -> Option<Ty> {
    Some(match (a, b) {
        (Ty::Timestamp, Ty::Duration) | (Ty::Duration, Ty::Timestamp) => Ty::Timestamp,
        (Ty::Int | Ty::Uint | Ty::Double | Ty::String | Ty::Bytes | Ty::Duration | Ty::Dyn, _) if a.fits(b) => {
            known(a, b)
        }
        (Ty::List(x), Ty::List(y)) if x.fits(y) => list(&known(x, y)),
        (Ty::List(_), Ty::Dyn) => a.clone(),
        _ => return None,
    })
}

fn subtract(a: &Ty, b: &Ty) -> Option<Ty> {
    Some(match (a, b) {
        (Ty::Timestamp, Ty::Timestamp) => Ty::Duration,
        (Ty::Timestamp, Ty::Duration) => Ty::Timestamp,
        (Ty::Int | Ty::Uint | Ty::Double | Ty::Duration | Ty::Dyn, _) if a.fits(b) => known(a, b),
        _ => return None,
    })
}

/// The type of a function's result: none where the function is unknown, an inner none where no overload fits.
pub fn function(name: &str, target: Option<&Ty>, args: &[Ty]) -> Option<Option<Ty>> {
    match target {
        None => global(name, args),
        Some(target) => member(name, target, args),
    }
}

fn global(name: &str, args: &[Ty]) -> Option<Option<Ty>> {
    use Ty::{Bool, Bytes, Double, Duration, Dyn, Int, Timestamp, Uint};
    let text = || matches!(args, [a] if is(a, &Ty::String));
    let when = |fits: bool, ty: Ty| Some(fits.then_some(ty));
    match (name, args) {
        ("size", [a]) => when(matches!(a, Ty::String | Bytes | Ty::List(_) | Ty::Map(..) | Dyn), Int),
        ("int", [a]) => when(matches!(a, Int | Uint | Double | Ty::String | Timestamp | Dyn), Int),
        ("uint", [a]) => when(matches!(a, Int | Uint | Double | Ty::String | Dyn), Uint),
        ("double", [a]) => when(matches!(a, Int | Uint | Double | Ty::String | Dyn), Double),
        ("bool", [a]) => when(matches!(a, Bool | Ty::String | Dyn), Bool),
        ("bytes", [a]) => when(matches!(a, Bytes | Ty::String | Dyn), Bytes),
        ("string", [a]) => {
            let fits = a.is_scalar() || matches!(a, Ty::String | Bytes | Dyn | Ty::Named("net.IP" | "net.CIDR"));
            when(fits, Ty::String)
        }
        ("timestamp", [a]) => when(matches!(a, Int | Timestamp | Ty::String | Dyn), Timestamp),
        ("duration", [a]) => when(matches!(a, Int | Duration | Ty::String | Dyn), Duration),
        ("dyn", [_]) => Some(Some(Dyn)),
        ("type", [_]) => Some(Some(Ty::Type)),
        ("url", _) => when(text(), URL),
        ("isURL" | "isIP" | "isCIDR" | "isSemver" | "ip.isCanonical", _) => when(text(), Bool),
        ("isQuantity", _) => when(text(), Bool),
        ("quantity", _) => when(text(), QUANTITY),
        ("ip", _) => when(text(), IP),
        ("cidr", _) => when(text(), CIDR),
        ("semver", [a]) => when(is(a, &Ty::String), SEMVER),
        ("semver", [a, b]) => when(is(a, &Ty::String) && is(b, &Bool), SEMVER),
        ("strings.quote", _) => when(text(), Ty::String),
        ("lists.range", [a]) => when(is(a, &Int), list(&Int)),
        ("sets.contains" | "sets.intersects" | "sets.equivalent", [a, b]) => {
            when(matches!((a, b), (Ty::List(_) | Dyn, Ty::List(_) | Dyn)) && a.fits(b), Bool)
        }
        ("optional.of" | "optional.ofNonZeroValue", [a]) => Some(Some(optional(a.clone()))),
        ("optional.none", []) => Some(Some(optional(Dyn))),
        ("format.named", _) => when(text(), optional(FORMAT)),
        (name, []) if name.strip_prefix("format.").is_some_and(|n| FORMATS.contains(&n)) => Some(Some(FORMAT)),
        ("matches" | "size" | "int" | "uint" | "double" | "bool" | "bytes" | "string", _) => Some(None),
        _ => None,
    }
}

fn member(name: &str, target: &Ty, args: &[Ty]) -> Option<Option<Ty>> {
    use Ty::{Bool, Bytes, Duration, Dyn, Int, Timestamp};
    let texts = |n: usize| args.len() == n && args.iter().all(|a| is(a, &Ty::String));
    let on_text = is(target, &Ty::String);
    let when = |fits: bool, ty: Ty| Some(fits.then_some(ty));
    let item = match target {
        Ty::List(item) => Some((**item).clone()),
        Dyn => Some(Dyn),
        _ => None,
    };
    match name {
        "size" => when(args.is_empty() && matches!(target, Ty::String | Bytes | Ty::List(_) | Ty::Map(..) | Dyn), Int),
        "contains" | "startsWith" | "endsWith" | "matches" => when(on_text && texts(1), Bool),
        "indexOf" | "lastIndexOf" => {
            let within = on_text && (texts(1) || matches!(args, [a, b] if is(a, &Ty::String) && is(b, &Int)));
            when(within || (item.is_some() && args.len() == 1), Int)
        }
        "charAt" => when(on_text && matches!(args, [a] if is(a, &Int)), Ty::String),
        "lowerAscii" | "upperAscii" | "trim" => when(on_text && args.is_empty(), Ty::String),
        "replace" => {
            let counted = matches!(args, [a, b, n] if is(a, &Ty::String) && is(b, &Ty::String) && is(n, &Int));
            when(on_text && (texts(2) || counted), Ty::String)
        }
        "split" | "findAll" => {
            let counted = matches!(args, [a, n] if is(a, &Ty::String) && is(n, &Int));
            when(on_text && (texts(1) || counted), list(&Ty::String))
        }
        "substring" => when(on_text && matches!(args.len(), 1 | 2) && args.iter().all(|a| is(a, &Int)), Ty::String),
        "find" => when(on_text && texts(1), Ty::String),
        "format" => when(on_text && matches!(args, [Ty::List(_) | Dyn]), Ty::String),
        "join" => when(item.is_some_and(|i| is(&i, &Ty::String)) && (args.is_empty() || texts(1)), Ty::String),
        "isSorted" => when(args.is_empty() && item.is_some_and(|i| ordered(&i)), Bool),
        "sum" | "min" | "max" => match item {
            Some(item) if args.is_empty() && (ordered(&item)) => Some(Some(item)),
            _ => Some(None),
        },
        "slice" => when(item.is_some() && args.len() == 2 && args.iter().all(|a| is(a, &Int)), target.clone()),
        "distinct" | "sort" | "reverse" => when(item.is_some() && args.is_empty(), target.clone()),
        "flatten" => match item {
            Some(Ty::List(inner)) if args.len() <= 1 => Some(Some(Ty::List(inner))),
            Some(item) if args.len() <= 1 => Some(Some(list(&item))),
            _ => Some(None),
        },
        "hasValue" => when(matches!(target, Ty::Optional(_) | Dyn) && args.is_empty(), Bool),
        "value" | "orValue" | "or" => match target {
            Ty::Optional(inner) if name == "or" => Some(Some(Ty::Optional(inner.clone()))),
            Ty::Optional(inner) => Some(Some(match (&**inner, args) {
                (Dyn, [default]) => default.clone(),
                (known, _) => known.clone(),
            })),
            Dyn => Some(Some(Dyn)),
            _ => Some(None),
        },
        "getFullYear" | "getMonth" | "getDate" | "getDayOfMonth" | "getDayOfWeek" | "getDayOfYear" => {
            when(is(target, &Timestamp) && (args.is_empty() || texts(1)), Int)
        }
        "getHours" | "getMinutes" | "getSeconds" | "getMilliseconds" => {
            when((is(target, &Timestamp) && (args.is_empty() || texts(1))) || is(target, &Duration), Int)
        }
        _ => library(name, target, args),
    }
}

fn library(name: &str, target: &Ty, args: &[Ty]) -> Option<Option<Ty>> {
    use Ty::{Bool, Double, Int};
    let when = |fits: bool, ty: Ty| Some(fits.then_some(ty));
    let one = |kinds: &[&Ty]| kinds.iter().any(|kind| is(target, kind));
    let with = |kinds: &[&Ty]| matches!(args, [a] if kinds.iter().any(|kind| is(a, kind)));
    match name {
        "getScheme" | "getHost" | "getHostname" | "getPort" | "getEscapedPath" => when(one(&[&URL]), Ty::String),
        "getQuery" => when(one(&[&URL]), Ty::Map(Arc::new(Ty::String), Arc::new(list(&Ty::String)))),
        "sign" => when(one(&[&QUANTITY]), Int),
        "asInteger" => when(one(&[&QUANTITY]), Int),
        "isInteger" => when(one(&[&QUANTITY]), Bool),
        "asApproximateFloat" => when(one(&[&QUANTITY]), Double),
        "isGreaterThan" | "isLessThan" => when(one(&[&QUANTITY, &SEMVER]) && with(&[target]), Bool),
        "compareTo" => when(one(&[&QUANTITY, &SEMVER]) && with(&[target]), Int),
        "add" | "sub" => when(one(&[&QUANTITY]) && with(&[&QUANTITY, &Int]), QUANTITY),
        "major" | "minor" | "patch" => when(one(&[&SEMVER]), Int),
        "family" => when(one(&[&IP]), Int),
        "isUnspecified" | "isLoopback" | "isLinkLocalMulticast" | "isLinkLocalUnicast" | "isGlobalUnicast" => {
            when(one(&[&IP]), Bool)
        }
        "containsIP" => when(one(&[&CIDR]) && with(&[&IP, &Ty::String]), Bool),
        "containsCIDR" => when(one(&[&CIDR]) && with(&[&CIDR, &Ty::String]), Bool),
        "ip" => when(one(&[&CIDR]), IP),
        "masked" => when(one(&[&CIDR]), CIDR),
        "prefixLength" => when(one(&[&CIDR]), Int),
        "validate" => when(one(&[&FORMAT]) && with(&[&Ty::String]), optional(list(&Ty::String))),
        "string" => when(one(&[&IP, &CIDR]), Ty::String),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{function, operator};
    use crate::kube_api::schema::cel::decl::Ty;

    #[test]
    fn overloads_that_do_not_exist_are_none() {
        assert!(operator("_==_", &[Ty::String, Ty::Int]).is_none());
        assert!(operator("_<_", &[Ty::Int, Ty::Double]).is_some());
        assert!(operator("_+_", &[Ty::Int, Ty::Double]).is_none());
        assert!(function("base64.encode", None, &[Ty::Bytes]).is_none());
        assert!(matches!(function("contains", Some(&Ty::Int), &[Ty::String]), Some(None)));
    }
}
