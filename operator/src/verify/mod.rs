//! Is the fence in the database the one that this version ships, unaltered?
//!
//! [`check`] reads the catalogs in one read-only transaction ([`mod@observe`]) and compares what it saw with what the
//! migrations make ([`mod@compare`], a pure function). Each [`Deviation`] names an object, what was found, what was expected
//! and what repairs it. Nothing is changed here.

mod compare;
mod expected;
mod level;
mod names;
mod observe;
mod protected;
mod snapshot;
mod strays;

use std::fmt;

use sqlx::postgres::PgConnection;

pub use compare::compare;
pub use expected::Expectations;
pub use level::{HardenStep, Level, Revocation, STRICT, harden, harden_steps};
pub use observe::observe;
pub use protected::{Belongs, InvalidProtectedTable, ProtectError, ProtectedTable, protect, withdraw};
pub use snapshot::{Acl, Function, Login, Membership, Policy, Relation, Role, Schema, Setting, Snapshot, Stray};

/// What a deviation means for the tenants of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The fence may leak, or refuse what it should answer: no tenant of this database is Ready.
    Unsafe,
    /// The configuration asks for it and it is not in place: a protected table that is not readable yet, a built-in of the
    /// strict level. The fence itself holds, so tenants are served.
    Missing,
    /// Worth a look; no row is readable because of it.
    Notice,
}

/// One difference between the fence and what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// What it means.
    pub severity: Severity,
    /// The object, as PostgreSQL names it: `table retail.orders`, `role fence_reader`.
    pub object: String,
    /// What the catalogs say.
    pub found: String,
    /// What they should say.
    pub expected: String,
    /// What repairs it: a statement where there is one.
    pub remedy: String,
    /// Whether the remedy is a statement that the operator may run by itself: a grant, a policy, row-level security of a
    /// table. What else differs is for a person to look at first.
    pub mendable: bool,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: found {}, expected {}; remedy: {}", self.object, self.found, self.expected, self.remedy)
    }
}

/// Why the fence could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The database has no fence, or the role may not read it.
    #[error(
        "the fence cannot be read as role {role}: run `storefence-operator migrate`, or connect as the administrator that did"
    )]
    NoFence {
        /// The role that was connected.
        role: String,
    },
    /// The strict level was asked for by a role that cannot bring it about.
    #[error(
        "role {role} is not superuser, and only a superuser can revoke built-in functions: on a managed server the level is `standard`"
    )]
    NotSuperuser {
        /// The role that was connected.
        role: String,
    },
    /// The catalogs could not be read.
    #[error("the catalogs cannot be read: {0}")]
    Database(#[from] sqlx::Error),
}

impl VerifyError {
    /// The reason in conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoFence { .. } => "FenceMissing",
            Self::NotSuperuser { .. } => "InsufficientPrivileges",
            Self::Database(_) => "DatabaseError",
        }
    }
}

/// Compares the whole fence of a database with what this version ships. Empty: it is intact.
pub async fn check(connection: &mut PgConnection, expectations: &Expectations) -> Result<Vec<Deviation>, VerifyError> {
    let snapshot = observe(connection).await?;
    Ok(compare(&snapshot, expectations))
}
