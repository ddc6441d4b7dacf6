//! The two sample tenants and their stores, as `examples/` declare them.

use uuid::{Uuid, uuid};

use super::Scale;

/// A store of a sample tenant.
#[derive(Debug)]
pub struct SampleStore {
    /// Its name in the RetailTenant.
    pub name: &'static str,
    /// Its identifier.
    pub id: Uuid,
    /// Its share of customers and orders, relative to the others.
    pub weight: u64,
    /// Whether it is the web shop.
    pub online: bool,
}

#[derive(Debug)]
pub struct SampleTenant {
    /// Its tenantId.
    pub id: &'static str,
    /// Its name for people.
    pub display_name: &'static str,
    pub stores: &'static [SampleStore],
    /// Its catalogue in the form that [`super::catalogue`] reads.
    pub(super) catalogue: &'static str,
    /// Letters that its stock keeping units begin with.
    pub(super) sku_prefix: &'static str,
    /// How many of a hundred of Zava's rows it has.
    percent_of_zava: u64,
    /// Sales of each month of the year, relative to each other.
    pub(super) seasons: [u64; 12],
}

const fn store(name: &'static str, id: Uuid, weight: u64) -> SampleStore {
    SampleStore { name, id, weight, online: false }
}

pub static SAMPLES: [SampleTenant; 2] = [
    SampleTenant {
        id: "zava",
        display_name: "Zava DIY",
        stores: &[
            store("Seattle", uuid!("f47ac10b-58cc-4372-a567-0e02b2c3d479"), 22),
            store("Bellevue", uuid!("6ba7b810-9dad-11d1-80b4-00c04fd430c8"), 13),
            store("Tacoma", uuid!("a1b2c3d4-e5f6-7890-abcd-ef1234567890"), 9),
            store("Spokane", uuid!("d8e9f0a1-b2c3-4567-8901-234567890abc"), 5),
            store("Everett", uuid!("3b9ac9fa-cd5e-4b92-a7f2-b8c1d0e9f2a3"), 6),
            store("Redmond", uuid!("e7f8a9b0-c1d2-3e4f-5678-90abcdef1234"), 9),
            store("Kirkland", uuid!("9c8b7a65-4321-fed0-9876-543210fedcba"), 7),
            SampleStore { name: "Online", id: uuid!("2f4e6d8c-1a3b-5c7e-9f0a-b2d4f6e8c0a2"), weight: 29, online: true },
        ],
        catalogue: include_str!("catalogue/zava.txt"),
        sku_prefix: "ZV",
        percent_of_zava: 100,
        // building and gardening happen from April to July
        seasons: [70, 72, 95, 118, 130, 128, 120, 108, 100, 92, 84, 83],
    },
    SampleTenant {
        id: "contoso",
        display_name: "Contoso Market",
        stores: &[
            store("Downtown", uuid!("5b1d7c3e-8f42-4a96-b0d5-e3c7f9a1b264"), 36),
            store("Harbor", uuid!("0a6e9d14-c7b3-4f58-92e1-d4a8b6c0f375"), 27),
            store("Airport", uuid!("e2c5a8f0-1b74-4d39-86a7-f9b3d1c5e048"), 14),
            store("Riverside", uuid!("94f7b2d6-e0a5-4c81-bd3f-7a2c6e8f1059"), 23),
        ],
        catalogue: include_str!("catalogue/contoso.txt"),
        sku_prefix: "CM",
        percent_of_zava: 40,
        // people eat all year, and more in December
        seasons: [97, 94, 98, 99, 100, 101, 99, 98, 99, 101, 108, 126],
    },
];

/// The sample tenant of that tenantId.
pub fn sample(tenant: &str) -> Option<&'static SampleTenant> {
    SAMPLES.iter().find(|sample| sample.id == tenant)
}

impl SampleTenant {
    /// Customers and orders at a scale.
    pub(super) fn rows(&self, scale: Scale) -> (u64, u64) {
        let (customers, orders) = scale.zava_rows();
        (customers * self.percent_of_zava / 100, orders * self.percent_of_zava / 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(sample("zava").unwrap().rows(Scale::Small), (1_250, 5_000));
        assert_eq!(sample("contoso").unwrap().rows(Scale::Small), (500, 2_000));
        assert_eq!(sample("zava").unwrap().rows(Scale::Zava), (50_000, 200_000));
        let large = SAMPLES.each_ref().map(|sample| (sample.rows(Scale::Zava), sample.rows(Scale::Large)));
        for ((customers, orders), tenfold) in large {
            assert_eq!(tenfold, (customers * 10, orders * 10));
        }
        assert_eq!(sample("zava").unwrap().stores.len(), 8);
        assert!(sample("fabrikam").is_none());
    }
}
