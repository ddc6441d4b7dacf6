//! Sample data for the two sample tenants: Zava (do-it-yourself) and Contoso (grocer).
//!
//! Every row follows from the tenant, the scale and the day on which the data ends: nothing is drawn from a random source.
//! Seeding a tenant that has orders already changes nothing.

mod bar;
mod catalogue;
mod customers;
mod load;
mod orders;
mod random;
mod tenants;

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};
use sqlx::{Acquire, postgres::PgConnection};

pub use bar::Bar;
pub use tenants::{SAMPLES, SampleStore, SampleTenant};

/// How much data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// 5,000 orders for Zava: tests and a first look.
    Small,
    /// 50,000 customers and 200,000 orders for Zava: the sample in earnest.
    Zava,
    /// Ten times `Zava`: for measuring.
    Large,
}

impl Scale {
    /// The scale's name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Zava => "zava",
            Self::Large => "large",
        }
    }

    /// Customers and orders of Zava; Contoso has two fifths of them.
    const fn zava_rows(self) -> (u64, u64) {
        match self {
            Self::Small => (1_250, 5_000),
            Self::Zava => (50_000, 200_000),
            Self::Large => (500_000, 2_000_000),
        }
    }
}

impl std::str::FromStr for Scale {
    type Err = SeedError;

    fn from_str(text: &str) -> Result<Self, SeedError> {
        [Self::Small, Self::Zava, Self::Large]
            .into_iter()
            .find(|scale| scale.as_str() == text)
            .ok_or_else(|| SeedError::UnknownScale(text.to_owned()))
    }
}

/// What to seed.
#[derive(Clone, Debug)]
pub struct Options {
    /// `zava` or `contoso`.
    pub tenant: String,
    /// How much of it.
    pub scale: Scale,
    /// The last day with orders, which has them until its end. A recent one lets questions about the last weeks have answers;
    /// a fixed one makes every row fixed.
    pub as_of: Date,
}

impl Options {
    /// The sample up to yesterday, UTC: an order of today could be later than now.
    pub fn new(tenant: impl Into<String>, scale: Scale) -> Self {
        Self { tenant: tenant.into(), scale, as_of: yesterday(Timestamp::now()) }
    }
}

/// The last day that is over.
fn yesterday(now: Timestamp) -> Date {
    now.to_zoned(TimeZone::UTC).date().saturating_sub(1.days())
}

/// How far the loading of one table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The table, without its schema.
    pub table: &'static str,
    /// Rows sent so far.
    pub rows: u64,
    /// Rows in all; an estimate for `order_items`.
    pub total: u64,
}

/// What the database holds for the tenant after seeding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// False when the data was there already and nothing was changed.
    pub loaded: bool,
    /// Rows of `retail.products`.
    pub products: u64,
    /// Rows of `retail.customers`.
    pub customers: u64,
    /// Rows of `retail.orders`.
    pub orders: u64,
    /// Rows of `retail.order_items`.
    pub order_items: u64,
}

/// Why a tenant could not be seeded.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// There is sample data for two tenants only.
    #[error("there is no sample data for tenant {0:?}: zava and contoso have some")]
    UnknownTenant(String),
    /// Not the name of a scale.
    #[error("unknown scale {0:?}: small, zava or large")]
    UnknownScale(String),
    /// The tenant has data of another scale, or of its own.
    #[error("tenant {tenant} has {found} orders already, scale {scale} makes {wanted}: seed an empty database instead")]
    OtherData {
        tenant: String,
        /// Orders in the database.
        found: i64,
        /// The scale asked for.
        scale: &'static str,
        /// The orders it makes.
        wanted: u64,
    },
    /// The database refused.
    #[error("seeding failed: {0}")]
    Database(#[from] sqlx::Error),
}

impl SeedError {
    /// The label in logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownTenant(_) => "UnknownTenant",
            Self::UnknownScale(_) => "UnknownScale",
            Self::OtherData { .. } => "OtherData",
            Self::Database(_) => "DatabaseError",
        }
    }
}

/// Seeds up to yesterday, without telling about the progress.
pub async fn run(connection: &mut PgConnection, tenant: &str, scale: Scale) -> Result<Report, SeedError> {
    run_with(connection, &Options::new(tenant, scale), &|_| ()).await
}

/// Seeds one tenant in one transaction, as the administrator (a member of `retail_loader`, or superuser).
pub async fn run_with(
    connection: &mut PgConnection,
    options: &Options,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Report, SeedError> {
    let sample = tenants::sample(&options.tenant).ok_or_else(|| SeedError::UnknownTenant(options.tenant.clone()))?;
    let (customers, orders) = sample.rows(options.scale);
    let mut transaction = connection.begin().await?;
    let tenant_key = load::tenant(&mut transaction, sample).await?;
    let found = load::orders_of(&mut transaction, tenant_key).await?;
    if found > 0 {
        if u64::try_from(found) != Ok(orders) {
            return Err(SeedError::OtherData {
                tenant: options.tenant.clone(),
                found,
                scale: options.scale.as_str(),
                wanted: orders,
            });
        }
        let report = load::counts(&mut transaction, tenant_key).await?;
        transaction.rollback().await?;
        return Ok(report);
    }

    let catalogue = catalogue::Catalogue::of(sample);
    load::catalogue(&mut transaction, tenant_key, &catalogue).await?;
    load::inventory(&mut transaction, sample, &catalogue).await?;
    let people = customers::Customers::new(sample, customers, options.as_of);
    let sales = orders::Orders::new(sample, &catalogue, &people, orders, options.as_of);
    load::customers(&mut transaction, &people, &sales.first_days(), progress).await?;
    load::sales(&mut transaction, &sales, progress).await?;
    let report = Report { loaded: true, ..load::counts(&mut transaction, tenant_key).await? };
    transaction.commit().await?;
    load::analyze(connection).await?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_ends_with_a_day_that_is_over() {
        let last = |now: &str| yesterday(now.parse().unwrap()).to_string();
        assert_eq!(
            (last("2026-03-01T00:00:00Z"), last("2026-01-01T23:59:59Z")),
            ("2026-02-28".into(), "2025-12-31".into())
        );
    }

    #[test]
    fn scales_are_read_by_name() {
        assert_eq!("large".parse::<Scale>().unwrap(), Scale::Large);
        assert_eq!("huge".parse::<Scale>().unwrap_err().reason(), "UnknownScale");
    }
}
