//! Request bodies: JSON with its duplicate fields noted, or YAML.

use std::{cell::RefCell, fmt};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::kube_api::status::ApiError;

/// Parses a body; the second part names fields that occur twice.
pub fn body(bytes: &[u8], content_type: &str) -> Result<(Value, Vec<String>), ApiError> {
    if content_type.contains("yaml") {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?;
        // JSON is YAML, and the commoner content of an apply patch.
        if !text.trim_start().starts_with('{') {
            let value = serde_saphyr::from_str(text)
                .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?;
            return Ok((value, Vec::new()));
        }
    } else if content_type.contains("protobuf") {
        return super::protobuf::decode(bytes).map(|value| (value, Vec::new()));
    }
    json(bytes)
}

fn json(bytes: &[u8]) -> Result<(Value, Vec<String>), ApiError> {
    let duplicates = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Noting { path: String::new(), duplicates: &duplicates }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| ApiError::bad_request(format!("couldn't get version/kind; json parse error: {error}")))?;
    Ok((value, duplicates.into_inner()))
}

struct Noting<'a> {
    path: String,
    duplicates: &'a RefCell<Vec<String>>,
}

impl Noting<'_> {
    fn below(&self, path: String) -> Self {
        Self { path, duplicates: self.duplicates }
    }
}

impl<'de> DeserializeSeed<'de> for Noting<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Noting<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element_seed(self.below(format!("{}[{}]", self.path, list.len())))? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            if map.contains_key(&key) {
                self.duplicates.borrow_mut().push(path.clone());
            }
            let value = access.next_value_seed(self.below(path))?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::body;

    #[test]
    fn duplicate_fields_are_noted_and_the_last_one_counts() {
        let (value, duplicates) =
            body(br#"{"a": {"b": 1, "b": 2}, "c": [{"d": 1, "d": 2}]}"#, "application/json").expect("json");
        assert_eq!(value, json!({"a": {"b": 2}, "c": [{"d": 2}]}));
        assert_eq!(duplicates, ["a.b", "c[0].d"]);
    }

    #[test]
    fn yaml_is_read() {
        let (value, _) = body(b"a:\n  - b: '1'\n", "application/apply-patch+yaml").expect("yaml");
        assert_eq!(value, json!({"a": [{"b": "1"}]}));
        assert!(body(b"k8s\0", "application/vnd.kubernetes.protobuf").is_err());
    }
}
