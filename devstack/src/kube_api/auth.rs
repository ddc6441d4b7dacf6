//! Who may do what: bearer tokens, and allow rules in the manner of RBAC.

use serde_json::{Value, json};

use super::status::{ApiError, details};

/// One allow rule. `*` stands for everything; resources are named `secrets`, `retailtenants/status` and so on.
#[derive(Debug, Clone)]
pub struct Rule {
    /// API groups; `""` is core.
    pub api_groups: Vec<String>,
    /// Resources, with subresource where one is meant.
    pub resources: Vec<String>,
    pub verbs: Vec<String>,
    /// Namespaces; empty for all, cluster scope included.
    pub namespaces: Vec<String>,
    /// Names of objects; empty for all.
    pub names: Vec<String>,
}

impl Rule {
    /// A rule for all namespaces and cluster scope.
    pub fn new(api_groups: &[&str], resources: &[&str], verbs: &[&str]) -> Self {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Self {
            api_groups: owned(api_groups),
            resources: owned(resources),
            verbs: owned(verbs),
            namespaces: Vec::new(),
            names: Vec::new(),
        }
    }

    /// The same rule in some namespaces only.
    #[must_use]
    pub fn within(mut self, namespaces: &[&str]) -> Self {
        self.namespaces = namespaces.iter().map(ToString::to_string).collect();
        self
    }

    /// The same rule for objects of these names only (RBAC's `resourceNames`).
    #[must_use]
    pub fn named(mut self, names: &[&str]) -> Self {
        self.names = names.iter().map(ToString::to_string).collect();
        self
    }

    /// A rule that allows everything.
    pub fn everything() -> Self {
        Self::new(&["*"], &["*"], &["*"])
    }

    fn allows(&self, access: &Access) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        has(&self.api_groups, &access.group)
            && has(&self.verbs, &access.verb)
            && has(&self.resources, &access.full_resource())
            && (self.namespaces.is_empty() || has(&self.namespaces, &access.namespace))
            && (self.names.is_empty() || has(&self.names, &access.name))
    }
}

#[derive(Debug, Clone)]
pub struct User {
    /// Name, as in messages and managed fields.
    pub name: String,
    pub token: String,
    pub groups: Vec<String>,
    pub rules: Vec<Rule>,
}

impl User {
    /// A user with a fresh token.
    pub fn new(name: impl Into<String>, rules: Vec<Rule>) -> Self {
        let token = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        Self { name: name.into(), token, groups: vec!["system:authenticated".into()], rules }
    }

    /// Whether something is allowed.
    pub fn may(&self, access: &Access) -> bool {
        self.rules.iter().any(|rule| rule.allows(access))
    }

    /// An error unless something is allowed.
    pub fn check(&self, access: &Access) -> Result<(), ApiError> {
        if self.may(access) {
            return Ok(());
        }
        let what = if access.group.is_empty() {
            access.resource.clone()
        } else {
            format!("{}.{}", access.resource, access.group)
        };
        let what = if access.name.is_empty() { what } else { format!("{what} {:?}", access.name) };
        let place = if access.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", access.namespace)
        };
        let message = format!(
            "{what} is forbidden: User {:?} cannot {} resource {:?} in API group {:?} {place}",
            self.name,
            access.verb,
            access.full_resource(),
            access.group,
        );
        let mut error = ApiError::new(403, "Forbidden", message);
        error.details = Some(details(&access.group, &access.resource, &access.name));
        Err(error)
    }

    /// `SelfSubjectReview`
    pub fn review(&self) -> Value {
        json!({
            "kind": "SelfSubjectReview",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"creationTimestamp": super::write::now()},
            "status": {"userInfo": {"username": self.name, "groups": self.groups}},
        })
    }

    /// `SelfSubjectAccessReview`
    pub fn access_review(&self, mut body: Value) -> Value {
        let text = |name: &str| {
            let value = body.pointer(&format!("/spec/resourceAttributes/{name}"));
            value.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let access = Access {
            verb: text("verb"),
            group: text("group"),
            resource: text("resource"),
            subresource: text("subresource"),
            namespace: text("namespace"),
            name: text("name"),
        };
        let allowed = body.pointer("/spec/nonResourceAttributes").is_some() || self.may(&access);
        body["status"] = json!({"allowed": allowed});
        if !body["metadata"].is_object() {
            body["metadata"] = json!({});
        }
        body
    }

    /// `SelfSubjectRulesReview`
    pub fn rules_review(&self, mut body: Value) -> Value {
        let namespace = body.pointer("/spec/namespace").and_then(Value::as_str).unwrap_or_default().to_owned();
        let rules: Vec<Value> = self
            .rules
            .iter()
            .filter(|rule| rule.namespaces.is_empty() || rule.namespaces.contains(&namespace))
            .map(|rule| json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources}))
            .collect();
        body["status"] = json!({"resourceRules": rules, "nonResourceRules": [], "incomplete": false});
        body
    }
}

/// One thing that somebody wants to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`
    pub verb: String,
    pub group: String,
    pub resource: String,
    /// Subresource; empty for none.
    pub subresource: String,
    /// Namespace; empty for cluster scope and for all namespaces.
    pub namespace: String,
    /// Name; empty for collections.
    pub name: String,
}

impl Access {
    /// `retailtenants/status`
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}
