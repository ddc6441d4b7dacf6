//! Sets of fields in the form of `FieldsV1`: a trie whose keys are `f:name`, `k:{…}` and `v:…`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A set of field paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Whether the path that leads here is itself in the set.
    pub member: bool,
    /// What lies below, by path element.
    pub children: BTreeMap<String, FieldSet>,
}

/// The path element of a field.
pub fn field(name: &str) -> String {
    format!("f:{name}")
}

impl FieldSet {
    /// The set that holds the path leading here and nothing below it.
    pub fn leaf() -> Self {
        Self { member: true, children: BTreeMap::new() }
    }

    /// Reads `FieldsV1`.
    pub fn parse(value: &Value) -> Self {
        let mut set = Self::parse_node(value);
        set.member = false;
        set
    }

    fn parse_node(value: &Value) -> Self {
        let Some(map) = value.as_object() else { return Self::leaf() };
        let mut set = Self { member: map.is_empty(), children: BTreeMap::new() };
        for (key, child) in map {
            if key == "." {
                set.member = true;
            } else {
                set.children.insert(key.clone(), Self::parse_node(child));
            }
        }
        set
    }

    /// Writes `FieldsV1`.
    pub fn to_fields(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".into(), json!({}));
        }
        for (key, child) in &self.children {
            map.insert(key.clone(), child.to_fields());
        }
        Value::Object(map)
    }

    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Self::is_empty)
    }

    /// Adds every path of `other`.
    pub fn extend(&mut self, other: &Self) {
        self.member |= other.member;
        for (key, child) in &other.children {
            self.children.entry(key.clone()).or_default().extend(child);
        }
    }

    /// The paths in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        let children = self
            .children
            .iter()
            .filter_map(|(key, child)| {
                let both = child.intersection(other.children.get(key)?);
                (!both.is_empty()).then(|| (key.clone(), both))
            })
            .collect();
        Self { member: self.member && other.member, children }
    }

    /// The paths that are not in `other`.
    pub fn difference(&self, other: &Self) -> Self {
        let children = self
            .children
            .iter()
            .filter_map(|(key, child)| {
                let rest = match other.children.get(key) {
                    Some(theirs) => child.difference(theirs),
                    None => child.clone(),
                };
                (!rest.is_empty()).then(|| (key.clone(), rest))
            })
            .collect();
        Self { member: self.member && !other.member, children }
    }

    /// Keeps only the given field of the root, or everything else.
    pub fn retain_root(&mut self, keep: impl Fn(&str) -> bool) {
        self.children.retain(|key, _| key.strip_prefix("f:").is_none_or(&keep));
    }

    /// Every path as conflict messages show it: `.spec.stores[name="a"].id`.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect("", &mut found);
        found
    }

    fn collect(&self, path: &str, found: &mut Vec<String>) {
        if self.member {
            found.push(path.to_owned());
        }
        for (key, child) in &self.children {
            child.collect(&format!("{path}{}", display(key)), found);
        }
    }
}

fn display(element: &str) -> String {
    match element.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("k:", key)) => match serde_json::from_str::<Map<String, Value>>(key) {
            Ok(map) => {
                let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("[{}]", pairs.join(","))
            }
            Err(_) => format!("[{key}]"),
        },
        Some(("v:", value)) => format!("[={value}]"),
        _ => format!("[{element}]"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::FieldSet;

    #[test]
    fn fields_survive_a_round_trip() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}, "f:spec": {"f:stores": {"k:{\"name\":\"x\"}": {".": {}, "f:id": {}}}}});
        let set = FieldSet::parse(&fields);
        assert_eq!(set.to_fields(), fields);
        assert_eq!(
            set.paths(),
            [".metadata.labels", ".metadata.labels.a", ".spec.stores[name=\"x\"]", ".spec.stores[name=\"x\"].id"]
        );
    }

    #[test]
    fn sets_subtract_member_by_member() {
        let a = FieldSet::parse(&json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}}));
        let b = FieldSet::parse(&json!({"f:a": {"f:b": {}}}));
        assert_eq!(a.difference(&b).to_fields(), json!({"f:a": {".": {}, "f:c": {}}}));
        assert_eq!(a.intersection(&b).to_fields(), json!({"f:a": {"f:b": {}}}));
        assert!(b.difference(&a).is_empty());
    }
}
