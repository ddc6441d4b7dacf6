//! The types that CEL sees of a structural schema, with the sizes that bound the cost of a rule
//! (`k8s.io/apiserver/pkg/cel/common/schemas.go`).

use std::{collections::BTreeMap, sync::Arc};

use super::escape;
use crate::kube_api::schema::{Additional, Schema, Type};

/// Largest request that the API server reads: what no limit bounds cannot be larger.
pub const MAX_REQUEST: u64 = 3 * 1024 * 1024;

#[derive(Debug, Clone)]
pub enum Ty {
    /// Anything; checked when it is evaluated.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    /// A type as a value: `int`, `string`.
    Type,
    List(Arc<Ty>),
    Map(Arc<Ty>, Arc<Ty>),
    /// An object of the schema.
    Object(Arc<Decl>),
    Optional(Arc<Ty>),
    /// A type of the Kubernetes libraries.
    Named(&'static str),
}

impl Ty {
    /// Whether the size of every value is one.
    pub fn is_scalar(&self) -> bool {
        match self {
            Self::Bool | Self::Int | Self::Uint | Self::Double | Self::Timestamp | Self::Duration => true,
            Self::Optional(inner) => inner.is_scalar(),
            _ => false,
        }
    }

    /// Whether a value of either type can stand for the other, as far as the checker can tell.
    pub fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dyn, _)
            | (_, Self::Dyn)
            | (Self::Null, Self::Null | Self::Object(_) | Self::Optional(_) | Self::Timestamp | Self::Duration)
            | (Self::Object(_) | Self::Optional(_) | Self::Timestamp | Self::Duration, Self::Null)
            | (Self::Bool, Self::Bool)
            | (Self::Int, Self::Int)
            | (Self::Uint, Self::Uint)
            | (Self::Double, Self::Double)
            | (Self::String, Self::String)
            | (Self::Bytes, Self::Bytes)
            | (Self::Timestamp, Self::Timestamp)
            | (Self::Duration, Self::Duration)
            | (Self::Type, Self::Type) => true,
            (Self::List(a), Self::List(b)) | (Self::Optional(a), Self::Optional(b)) => a.fits(b),
            (Self::Map(a, b), Self::Map(c, d)) => a.fits(c) && b.fits(d),
            (Self::Object(a), Self::Object(b)) => Arc::ptr_eq(a, b),
            (Self::Named(a), Self::Named(b)) => a == b,
            _ => false,
        }
    }

    /// As the checker names it in errors.
    pub fn name(&self) -> String {
        match self {
            Self::Dyn => "dyn".into(),
            Self::Null => "null".into(),
            Self::Bool => "bool".into(),
            Self::Int => "int".into(),
            Self::Uint => "uint".into(),
            Self::Double => "double".into(),
            Self::String => "string".into(),
            Self::Bytes => "bytes".into(),
            Self::Timestamp => "google.protobuf.Timestamp".into(),
            Self::Duration => "google.protobuf.Duration".into(),
            Self::Type => "type".into(),
            Self::List(item) => format!("list({})", item.name()),
            Self::Map(key, value) => format!("map({}, {})", key.name(), value.name()),
            Self::Object(_) => "object".into(),
            Self::Optional(inner) => format!("optional_type({})", inner.name()),
            Self::Named(name) => (*name).into(),
        }
    }
}

/// What kind of value a declaration describes.
#[derive(Debug)]
enum Shape {
    Leaf(Ty),
    List(Arc<Decl>),
    Map(Arc<Decl>),
    Object,
}

/// A type that the schema declares.
#[derive(Debug)]
pub struct Decl {
    shape: Shape,
    /// Most characters, items or entries; zero for what has no size.
    pub max_elements: u64,
    /// Fewest bytes of a value in JSON.
    pub min_size: u64,
    /// Fields of an object, by their escaped names.
    pub fields: BTreeMap<String, Arc<Decl>>,
}

impl Decl {
    fn leaf(ty: Ty, min_size: u64, max_elements: u64) -> Arc<Self> {
        Self::of(Shape::Leaf(ty), min_size, max_elements, BTreeMap::new())
    }

    fn of(shape: Shape, min_size: u64, max_elements: u64, fields: BTreeMap<String, Arc<Self>>) -> Arc<Self> {
        Arc::new(Self { shape, max_elements, min_size, fields })
    }

    /// The type as an expression sees it.
    pub fn as_type(self: &Arc<Self>) -> Ty {
        match &self.shape {
            Shape::Leaf(ty) => ty.clone(),
            Shape::List(item) => Ty::List(Arc::new(item.as_type())),
            Shape::Map(value) => Ty::Map(Arc::new(Ty::String), Arc::new(value.as_type())),
            Shape::Object => Ty::Object(self.clone()),
        }
    }

    /// Items of a list, values of a map.
    pub fn element(&self) -> Option<&Arc<Self>> {
        match &self.shape {
            Shape::List(element) | Shape::Map(element) => Some(element),
            _ => None,
        }
    }

    pub fn is_map(&self) -> bool {
        matches!(self.shape, Shape::Map(_))
    }

    /// How often a value of this type can occur where nothing bounds it.
    pub fn cardinality(&self) -> u64 {
        MAX_REQUEST / (self.min_size + 1)
    }
}

/// The declaration of a schema, or none where CEL cannot see it: where the schema says nothing of a value.
pub fn declare(schema: &Schema, root: bool) -> Option<Arc<Decl>> {
    if schema.int_or_string {
        return Some(Decl::leaf(Ty::Dyn, 1, string_length(schema)));
    }
    let none = BTreeMap::new;
    Some(match (schema.kind?, &schema.additional) {
        (Type::Array, _) => {
            let items = schema.items.as_ref()?;
            let element = declare(items, items.embedded)?;
            let most = schema.size.1.unwrap_or((MAX_REQUEST - 2) / (element.min_size + 1));
            Decl::of(Shape::List(element), 2, most, none())
        }
        (Type::Object, Additional::Schema(values)) => {
            let element = declare(values, values.embedded)?;
            let most = schema.entries.1.unwrap_or((MAX_REQUEST - 2) / (element.min_size + 6));
            Decl::of(Shape::Map(element), 2, most, none())
        }
        (Type::Object, _) => object(schema, root || schema.embedded),
        (Type::String, _) => string(schema),
        (Type::Boolean, _) => Decl::leaf(Ty::Bool, 4, 0),
        (Type::Number, _) => Decl::leaf(Ty::Double, 1, 0),
        (Type::Integer, _) => Decl::leaf(Ty::Int, 1, 0),
    })
}

fn object(schema: &Schema, root: bool) -> Arc<Decl> {
    let mut fields = BTreeMap::new();
    let mut min_size = 2;
    let server_owned = |name: &str| root && matches!(name, "apiVersion" | "kind" | "metadata");
    for (name, property) in schema.properties.iter().filter(|(name, _)| !server_owned(name)) {
        let Some(field) = declare(property, property.embedded) else { continue };
        if schema.required.contains(name) && property.default.is_none() {
            min_size += name.len() as u64 + field.min_size + 4;
        }
        if let Some(name) = escape(name) {
            fields.insert(name, field);
        }
    }
    if root {
        // Only names are visible of what the server owns.
        let text = Decl::leaf(Ty::String, 2, MAX_REQUEST - 2);
        let names = BTreeMap::from([("name".to_owned(), text.clone()), ("generateName".to_owned(), text.clone())]);
        let own = [("apiVersion", text.clone()), ("kind", text), ("metadata", Decl::of(Shape::Object, 2, 0, names))];
        for (name, field) in own {
            if schema.required.iter().any(|r| r == name) {
                min_size += name.len() as u64 + field.min_size + 4;
            }
            fields.insert(name.into(), field);
        }
    }
    Decl::of(Shape::Object, min_size, 0, fields)
}

fn string(schema: &Schema) -> Arc<Decl> {
    match schema.format.as_deref() {
        Some("byte") => Decl::leaf(Ty::Bytes, 2, schema.length.1.unwrap_or(MAX_REQUEST - 2)),
        Some("duration") => Decl::leaf(Ty::Duration, 3, 32),
        Some("date") => Decl::leaf(Ty::Timestamp, 12, 12),
        Some("date-time") => Decl::leaf(Ty::Timestamp, 21, 32),
        _ => Decl::leaf(Ty::String, 2, string_length(schema)),
    }
}

/// `maxLength` counts characters, of up to four bytes each.
fn string_length(schema: &Schema) -> u64 {
    if let Some(most) = schema.length.1 {
        return most * 4;
    }
    match &schema.allowed {
        Some(values) if !values.is_empty() && !schema.int_or_string => {
            values.iter().filter_map(|v| v.as_str()).map(|v| v.len() as u64).max().unwrap_or(0)
        }
        _ => MAX_REQUEST - 2,
    }
}
