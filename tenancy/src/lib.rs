//! The language that the operator and the gateway share: the `RetailTenant` resource, the computation of a
//! [`Scope`] from verified token claims, the signed context that carries a scope into PostgreSQL, and
//! the names of a tenant's secrets and roles.
//!
//! Everything here is pure: no I/O, no clock, no async. Whoever needs a database to test a decision has put the
//! decision in the wrong place.
#![warn(missing_docs, clippy::pedantic)]
// PostgreSQL, MicrosoftEntra and CustomResourceDefinition are names, not code.
#![allow(clippy::doc_markdown)]
// kube's derive takes one `printcolumn(…)` per column.
#![allow(clippy::duplicated_attributes)]
// Seconds are the unit of the field.
#![allow(clippy::duration_suboptimal_units)]

pub mod claims;
pub mod context;
pub mod credentials;
pub mod ids;
pub mod names;
pub mod resource;
pub mod rules;
pub mod scope;

pub use claims::Claims;
pub use ids::TenantId;
pub use resource::{RetailTenant, RetailTenantSpec, RetailTenantStatus};
pub use rules::TenantRules;
pub use scope::Scope;
