//! The caller of a request: a verified token, the tenant that it was sent to, and what it may see there.

use std::sync::Arc;

use storefence_tenancy::Scope;
use uuid::Uuid;

use crate::{
    identity::{Principal, PrincipalId},
    tenants::Tenant,
};

/// The caller of one request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The verified token.
    pub principal: Arc<Principal>,
    /// The tenant that the request is for.
    pub tenant: Arc<Tenant>,
    /// What the token may see of the tenant.
    pub scope: Scope,
    /// The correlation id: log lines, audit lines and answers of this request carry it.
    pub correlation: Uuid,
}

impl Caller {
    /// The principal's identifier: directory and object.
    #[must_use]
    pub fn id(&self) -> PrincipalId {
        self.principal.id()
    }
}
