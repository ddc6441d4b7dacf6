//! Customers: made on demand, so that two million orders need no list of them.

use jiff::{ToSpan, civil::Date};
use uuid::Uuid;

use super::{random::Stream, tenants::SampleTenant};

const FIRST: [&str; 40] = [
    "Ada",
    "Aisha",
    "Alexander",
    "Ana",
    "Anders",
    "Ben",
    "Carmen",
    "Chidi",
    "Chloe",
    "Daniel",
    "Elena",
    "Emeka",
    "Emma",
    "Farid",
    "Grace",
    "Hana",
    "Hugo",
    "Ines",
    "Ivan",
    "James",
    "Jia",
    "Jonas",
    "Julia",
    "Kenji",
    "Laila",
    "Leo",
    "Lucia",
    "Marta",
    "Mateo",
    "Mei",
    "Nadia",
    "Noah",
    "Olga",
    "Omar",
    "Priya",
    "Rosa",
    "Sam",
    "Sofia",
    "Tomas",
    "Yuki",
];
const LAST: [&str; 50] = [
    "Adams", "Ahmed", "Alvarez", "Andersen", "Baker", "Bauer", "Bianchi", "Carter", "Chen", "Costa", "Davis", "Diaz",
    "Evans", "Fischer", "Garcia", "Green", "Haddad", "Hansen", "Hill", "Ito", "Ivanov", "Jackson", "Johnson", "Kaur",
    "Kim", "Kowalski", "Lee", "Lopez", "Martin", "Miller", "Mori", "Moreau", "Nguyen", "Novak", "Okafor", "Olsen",
    "Patel", "Perez", "Quinn", "Reyes", "Rossi", "Sato", "Schmidt", "Silva", "Singh", "Smith", "Tanaka", "Walker",
    "Wong", "Young",
];

/// Most days between becoming a customer and the first order.
const BEFORE: u64 = 60;

/// All customers of a tenant.
#[derive(Debug)]
pub struct Customers {
    sample: &'static SampleTenant,
    /// How many there are.
    pub count: u64,
    as_of: Date,
}

#[derive(Debug)]
pub struct Customer {
    pub id: Uuid,
    pub store: Uuid,
    pub first_name: &'static str,
    pub last_name: &'static str,
    pub email: String,
    pub phone: Option<String>,
    pub since: Date,
}

impl Customers {
    pub fn new(sample: &'static SampleTenant, count: u64, as_of: Date) -> Self {
        Self { sample, count, as_of }
    }

    /// Identifier and store of one customer: what an order needs.
    pub fn key(&self, number: u64) -> (Uuid, Uuid) {
        let mut stream = Stream::new(self.sample.id, "customer", number);
        let store = stream.weighted(self.sample.stores.iter().map(|store| store.weight));
        (stream.uuid(), self.sample.stores[store].id)
    }

    /// One customer, known since some time before the first order; one without any, since some day of the years.
    pub fn customer(&self, number: u64, first_order: Option<Date>) -> Customer {
        let (id, store) = self.key(number);
        let mut stream = Stream::new(self.sample.id, "person", number);
        let first_name = *stream.pick(&FIRST);
        let last_name = *stream.pick(&LAST);
        let email = format!("{}.{}.{number}@example.com", first_name.to_lowercase(), last_name.to_lowercase());
        let phone = stream.chance(80).then(|| format!("+1-555-{:07}", stream.below(10_000_000)));
        let (known_by, within) = first_order.map_or((self.as_of, super::orders::DAYS), |day| (day, BEFORE));
        let days = i64::try_from(stream.below(within)).unwrap_or(0) + 1;
        Customer { id, store, first_name, last_name, email, phone, since: known_by.saturating_sub(days.days()) }
    }
}
