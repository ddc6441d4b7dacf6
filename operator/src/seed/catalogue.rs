//! Categories, product types and products, read from a small text:
//!
//! ```text
//! # CATEGORY
//! ## TYPE | lowest price | highest price | what all of them are good for
//! product; product; …
//! ```

use uuid::Uuid;

use super::{random::Stream, tenants::SampleTenant};

/// Everything a tenant sells.
#[derive(Debug, Default)]
pub struct Catalogue {
    pub categories: Vec<Category>,
    pub types: Vec<ProductType>,
    pub products: Vec<Product>,
}

#[derive(Debug)]
pub struct Category {
    pub id: Uuid,
    pub name: &'static str,
}

#[derive(Debug)]
pub struct ProductType {
    pub id: Uuid,
    pub category: Uuid,
    pub name: &'static str,
}

#[derive(Debug)]
pub struct Product {
    pub id: Uuid,
    pub sku: String,
    pub name: &'static str,
    pub category: Uuid,
    pub product_type: Uuid,
    /// In cents.
    pub cost: u64,
    /// In cents.
    pub price: u64,
    pub description: String,
    /// How often it is bought, relative to the others.
    pub demand: u64,
}

impl Catalogue {
    /// The catalogue of a sample tenant. Lines that do not have the form are left out, which a test rules out.
    pub fn of(sample: &'static SampleTenant) -> Self {
        let mut catalogue = Self::default();
        let mut range = (0, 0);
        let mut blurb = "";
        for line in sample.catalogue.lines() {
            if let Some(heading) = line.strip_prefix("## ") {
                let mut fields = heading.split(" | ");
                let (Some(name), Some(low), Some(high), Some(text)) =
                    (fields.next(), fields.next(), fields.next(), fields.next())
                else {
                    continue;
                };
                let Some(category) = catalogue.categories.last().map(|category| category.id) else { continue };
                range = (low.parse().unwrap_or(0), high.parse().unwrap_or(0));
                blurb = text;
                let id = Stream::new(sample.id, "type", catalogue.types.len() as u64).uuid();
                catalogue.types.push(ProductType { id, category, name });
            } else if let Some(name) = line.strip_prefix("# ") {
                let id = Stream::new(sample.id, "category", catalogue.categories.len() as u64).uuid();
                catalogue.categories.push(Category { id, name });
            } else {
                for name in line.split("; ").filter(|name| !name.is_empty()) {
                    catalogue.product(sample, name, range, blurb);
                }
            }
        }
        catalogue
    }

    fn product(&mut self, sample: &SampleTenant, name: &'static str, (low, high): (u64, u64), blurb: &str) {
        let (Some(category), Some(product_type)) = (self.categories.last(), self.types.last()) else { return };
        let number = self.products.len() as u64;
        let mut stream = Stream::new(sample.id, "product", number);
        let id = stream.uuid();
        // low prices are more frequent than high ones; whole amounts less one cent
        let spread = stream.below(1_000) * stream.below(1_000) / 1_000;
        let price = (low * 100 + (high - low) * spread / 10).div_ceil(100).max(1) * 100 - 1;
        let cost = price * (55 + stream.below(20)) / 100;
        let demand = 20 + stream.below(80) + 4_000 / (low + high).max(1);
        self.products.push(Product {
            id,
            sku: format!("{}-{:05}", sample.sku_prefix, 10_001 + number),
            name,
            category: category.id,
            product_type: product_type.id,
            cost,
            price,
            description: format!("{name}. {blurb}"),
            demand,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::seed::SAMPLES;

    #[test]
    fn catalogues_are_complete() {
        for sample in &SAMPLES {
            let catalogue = Catalogue::of(sample);
            assert_eq!(catalogue.categories.len(), 9, "{}", sample.id);
            let lines = |prefix: &str| sample.catalogue.lines().filter(|line| line.starts_with(prefix)).count();
            assert_eq!(catalogue.types.len(), lines("## "));
            let names: HashSet<_> = catalogue.products.iter().map(|product| product.name).collect();
            assert_eq!(names.len(), catalogue.products.len(), "a product stands twice in {}", sample.id);
            for product in &catalogue.products {
                assert!(product.cost > 0 && product.cost < product.price, "{product:?}");
                assert!(product.description.len() > product.name.len() + 10, "{product:?}");
            }
        }
        assert_eq!(Catalogue::of(&SAMPLES[0]).products.len(), 420);
    }
}
