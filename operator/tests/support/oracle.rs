//! The suites' oracle over a world of these tests.

use storefence_tenancy::scope::StoreSet;
use storefence_tests::Oracle as Copy;
use uuid::Uuid;

use super::{
    Tenant, World,
    flight::{Answer, refusal},
};

/// A database that holds one scope's rows.
pub struct Oracle(Copy);

impl Oracle {
    pub async fn new(world: &World, name: &str, tenant: &Tenant, scope: &StoreSet) -> Self {
        let stores: Vec<Uuid> = tenant.stores.iter().map(|store| store.0).filter(|id| scope.contains(id)).collect();
        let copy = Copy::new(&world.cluster, &world.database.name, name, tenant.tenant_key, &stores).await;
        Self(copy.unwrap())
    }

    pub async fn answer(&self, query: &str) -> Answer {
        self.0.lines(query).await.map_err(refusal)
    }
}
