//! The few protobuf bodies that kubectl insists on sending (`create secret`, `auth can-i`, …), read into JSON.
//!
//! Answers are always JSON, which every client accepts. Field numbers are those of the `generated.proto` files of
//! `k8s.io/api`; they never change.

use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::kube_api::status::ApiError;

const MAGIC: &[u8] = b"k8s\0";

/// How a field is read.
enum Kind {
    Text,
    Texts,
    Bytes,
    Flag,
    Number,
    TextMap,
    BytesMap,
    Time,
    One(Message),
    Many(Message),
}

type Message = &'static [(u64, &'static str, Kind)];

const OWNER: Message = &[
    (1, "kind", Kind::Text),
    (3, "name", Kind::Text),
    (4, "uid", Kind::Text),
    (5, "apiVersion", Kind::Text),
    (6, "controller", Kind::Flag),
    (7, "blockOwnerDeletion", Kind::Flag),
];
const META: Message = &[
    (1, "name", Kind::Text),
    (2, "generateName", Kind::Text),
    (3, "namespace", Kind::Text),
    (5, "uid", Kind::Text),
    (6, "resourceVersion", Kind::Text),
    (7, "generation", Kind::Number),
    (8, "creationTimestamp", Kind::Time),
    (11, "labels", Kind::TextMap),
    (12, "annotations", Kind::TextMap),
    (13, "ownerReferences", Kind::Many(OWNER)),
    (14, "finalizers", Kind::Texts),
];
const SECRET: Message = &[
    (1, "metadata", Kind::One(META)),
    (2, "data", Kind::BytesMap),
    (3, "type", Kind::Text),
    (4, "stringData", Kind::TextMap),
    (5, "immutable", Kind::Flag),
];
const CONFIG_MAP: Message = &[
    (1, "metadata", Kind::One(META)),
    (2, "data", Kind::TextMap),
    (3, "binaryData", Kind::BytesMap),
    (4, "immutable", Kind::Flag),
];
const NAMESPACE: Message =
    &[(1, "metadata", Kind::One(META)), (2, "spec", Kind::One(&[(1, "finalizers", Kind::Texts)]))];
const SERVICE_ACCOUNT: Message = &[
    (1, "metadata", Kind::One(META)),
    (2, "secrets", Kind::Many(&[(3, "name", Kind::Text)])),
    (3, "imagePullSecrets", Kind::Many(&[(1, "name", Kind::Text)])),
    (4, "automountServiceAccountToken", Kind::Flag),
];
const RESOURCE_ATTRIBUTES: Message = &[
    (1, "namespace", Kind::Text),
    (2, "verb", Kind::Text),
    (3, "group", Kind::Text),
    (4, "version", Kind::Text),
    (5, "resource", Kind::Text),
    (6, "subresource", Kind::Text),
    (7, "name", Kind::Text),
];
const ACCESS_REVIEW: Message = &[
    (1, "metadata", Kind::One(META)),
    (
        2,
        "spec",
        Kind::One(&[
            (1, "resourceAttributes", Kind::One(RESOURCE_ATTRIBUTES)),
            (2, "nonResourceAttributes", Kind::One(&[(1, "path", Kind::Text), (2, "verb", Kind::Text)])),
        ]),
    ),
];
const RULES_REVIEW: Message =
    &[(1, "metadata", Kind::One(META)), (2, "spec", Kind::One(&[(1, "namespace", Kind::Text)]))];
const SUBJECT_REVIEW: Message = &[(1, "metadata", Kind::One(META))];
/// `k8s.io/apimachinery/pkg/runtime.Unknown`
const ENVELOPE: Message =
    &[(1, "type", Kind::One(&[(1, "apiVersion", Kind::Text), (2, "kind", Kind::Text)])), (2, "raw", Kind::Bytes)];

fn message(kind: &str) -> Option<Message> {
    Some(match kind {
        "Secret" => SECRET,
        "ConfigMap" => CONFIG_MAP,
        "Namespace" => NAMESPACE,
        "ServiceAccount" => SERVICE_ACCOUNT,
        "SelfSubjectAccessReview" => ACCESS_REVIEW,
        "SelfSubjectRulesReview" => RULES_REVIEW,
        "SelfSubjectReview" => SUBJECT_REVIEW,
        _ => return None,
    })
}

/// Reads a body of type `application/vnd.kubernetes.protobuf`.
pub fn decode(body: &[u8]) -> Result<Value, ApiError> {
    let unsupported = || ApiError::unsupported_media_type("application/json, application/yaml");
    let envelope = read(body.strip_prefix(MAGIC).ok_or_else(unsupported)?, ENVELOPE).ok_or_else(unsupported)?;
    let text = |pointer: &str| envelope.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let raw = base64::engine::general_purpose::STANDARD.decode(text("/raw")).map_err(|_| unsupported())?;
    let fields = message(text("/type/kind")).ok_or_else(unsupported)?;
    let mut object = read(&raw, fields).ok_or_else(unsupported)?;
    object["apiVersion"] = json!(text("/type/apiVersion"));
    object["kind"] = json!(text("/type/kind"));
    Ok(object)
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The next field of a message: its number and its value.
fn next<'a>(rest: &mut &'a [u8]) -> Option<(u64, Wire<'a>)> {
    let tag = varint(rest)?;
    let value = match tag & 7 {
        0 => Wire::Number(varint(rest)?),
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            let (bytes, after) = rest.split_at_checked(length)?;
            *rest = after;
            Wire::Bytes(bytes)
        }
        _ => return None,
    };
    Some((tag >> 3, value))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn text(bytes: &[u8]) -> Option<Value> {
    std::str::from_utf8(bytes).ok().map(|text| json!(text))
}

fn encoded(bytes: &[u8]) -> Value {
    json!(base64::engine::general_purpose::STANDARD.encode(bytes))
}

fn read(mut bytes: &[u8], fields: Message) -> Option<Value> {
    let mut object = Map::new();
    while !bytes.is_empty() {
        let (number, value) = next(&mut bytes)?;
        let Some((_, name, kind)) = fields.iter().find(|(n, _, _)| *n == number) else { continue };
        let mut push = |value: Value| {
            if let Some(list) = object.entry(*name).or_insert_with(|| json!([])).as_array_mut() {
                list.push(value);
            }
        };
        match (kind, value) {
            (Kind::Texts, Wire::Bytes(bytes)) => push(text(bytes)?),
            (Kind::Many(fields), Wire::Bytes(bytes)) => push(read(bytes, fields)?),
            (Kind::TextMap | Kind::BytesMap, Wire::Bytes(mut entry)) => {
                let (mut key, mut value) = (String::new(), &[][..]);
                while !entry.is_empty() {
                    match next(&mut entry)? {
                        (1, Wire::Bytes(bytes)) => key = std::str::from_utf8(bytes).ok()?.to_owned(),
                        (2, Wire::Bytes(bytes)) => value = bytes,
                        _ => {}
                    }
                }
                let value = if matches!(kind, Kind::TextMap) { text(value)? } else { encoded(value) };
                object.entry(*name).or_insert_with(|| json!({}))[key] = value;
            }
            // Go writes empty strings, which JSON leaves out.
            (Kind::Text, Wire::Bytes([])) => {}
            (Kind::Text, Wire::Bytes(bytes)) => drop(object.insert((*name).into(), text(bytes)?)),
            (Kind::Bytes, Wire::Bytes(bytes)) => drop(object.insert((*name).into(), encoded(bytes))),
            (Kind::Flag, Wire::Number(n)) => drop(object.insert((*name).into(), json!(n != 0))),
            (Kind::Number, Wire::Number(n)) => drop(object.insert((*name).into(), json!(n))),
            (Kind::One(fields), Wire::Bytes(bytes)) => drop(object.insert((*name).into(), read(bytes, fields)?)),
            // Only the server sets times.
            _ => {}
        }
    }
    Some(Value::Object(object))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::decode;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).expect("short")];
        out.extend(bytes);
        out
    }

    #[test]
    fn a_secret_is_read() {
        let meta = field(1, b"s");
        let entry = [field(1, b"k"), field(2, b"v")].concat();
        let raw = [field(1, &meta), field(2, &entry), field(3, b"Opaque")].concat();
        let kind = [field(1, b"v1"), field(2, b"Secret")].concat();
        let body = [b"k8s\0".to_vec(), field(1, &kind), field(2, &raw)].concat();
        assert_eq!(
            decode(&body).expect("secret"),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "dg=="}, "type": "Opaque"})
        );
        assert_eq!(decode(b"k8s\0\x0a").expect_err("cut short").code, 415);
    }
}
