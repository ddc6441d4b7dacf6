//! The figures as the database counts them, and what follows from them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Counts and sums of one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct Figures {
    /// Orders.
    pub orders: u64,
    /// Customers with an order.
    pub customers: u64,
    /// Those of them who had bought before the window.
    pub returning: u64,
    /// Sum of the lines' amounts.
    pub revenue: f64,
    /// Units sold.
    pub units: u64,
    /// What the units cost the tenant.
    pub cost: f64,
}

/// The three windows.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Windows {
    /// The period.
    pub current: Figures,
    /// The one before.
    pub previous: Figures,
    /// The one a year before.
    pub year_before: Figures,
}

/// A store, product or category with what it sold.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Seller {
    /// Its name.
    pub name: String,
    /// What it sold in the period.
    pub revenue: f64,
    /// Of a store: its orders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orders: Option<u64>,
    /// Of a product or category: units sold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units: Option<i64>,
    /// What it sold in the period before.
    pub previous_revenue: f64,
    /// And a year before, where the answer has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub year_before_revenue: Option<f64>,
    /// Of a store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_id: Option<String>,
    /// Of a product.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sku: Option<String>,
}

/// One UTC day.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Day {
    /// The day.
    pub date: String,
    /// Its revenue.
    pub revenue: f64,
    /// Its orders.
    pub orders: u64,
    /// Revenue of the day in the same position of the period before.
    pub previous_revenue: f64,
    /// The same a year before.
    pub year_before_revenue: f64,
}

/// A product that is out of stock in a store.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StockOut {
    /// Where.
    pub store: String,
    /// What.
    pub name: String,
    /// Its SKU.
    pub sku: String,
    /// Units of it that the store sold in the period.
    pub units_sold: u64,
}

/// All that the statement answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Totals.
    pub windows: Windows,
    /// By store, the best first.
    pub stores: Vec<Seller>,
    /// The best products.
    pub products: Vec<Seller>,
    /// The best categories.
    pub categories: Vec<Seller>,
    /// Of all categories with revenue in the period or in the one before, the one whose revenue moved most, in money: a
    /// percentage would always find the smallest.
    pub category_mover: Option<Seller>,
    /// By day.
    pub days: Vec<Day>,
    /// How many products are out of stock, per store.
    pub stock_out_count: u64,
    /// Those that sold most.
    pub stock_outs: Vec<StockOut>,
}

/// To cents, or to hundredths of a percent.
#[must_use]
pub fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Percent of a whole; nothing of nothing has none.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn percent(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| round(part / whole * 100.0))
}

/// Change in percent; there is none from nothing.
#[must_use]
pub fn change(now: f64, before: f64) -> Option<f64> {
    percent(now - before, before)
}

impl Figures {
    /// Revenue per order.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn average_order(&self) -> Option<f64> {
        (self.orders > 0).then(|| round(self.revenue / self.orders as f64))
    }

    /// Share of the customers who had bought before.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn returning_percent(&self) -> Option<f64> {
        percent(self.returning as f64, self.customers as f64)
    }

    /// Share of the revenue that is left after cost.
    #[must_use]
    pub fn margin_percent(&self) -> Option<f64> {
        percent(self.revenue - self.cost, self.revenue)
    }

    /// For the answer.
    #[must_use]
    pub fn shown(&self) -> Shown {
        Shown {
            revenue: round(self.revenue),
            orders: self.orders,
            customers: self.customers,
            units: self.units,
            average_order: self.average_order(),
            margin: round(self.revenue - self.cost),
            margin_percent: self.margin_percent(),
            returning_customers: self.returning,
            returning_percent: self.returning_percent(),
        }
    }

    /// Changes of shares against another window, in percentage points.
    #[must_use]
    pub fn points(&self, before: &Self) -> Points {
        let change = |now: Option<f64>, before: Option<f64>| now.zip(before).map(|(now, before)| round(now - before));
        Points {
            margin_percent: change(self.margin_percent(), before.margin_percent()),
            returning_percent: change(self.returning_percent(), before.returning_percent()),
        }
    }

    /// Changes against another window, in percent.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn against(&self, before: &Self) -> Changes {
        let average = self.average_order().zip(before.average_order()).and_then(|(now, before)| change(now, before));
        Changes {
            revenue: change(self.revenue, before.revenue),
            orders: change(self.orders as f64, before.orders as f64),
            customers: change(self.customers as f64, before.customers as f64),
            units: change(self.units as f64, before.units as f64),
            average_order: average,
            margin: change(self.revenue - self.cost, before.revenue - before.cost),
        }
    }
}

/// Figures as the answer has them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // the fields are those of [`Figures`]
pub struct Shown {
    pub revenue: f64,
    pub orders: u64,
    pub customers: u64,
    pub units: u64,
    pub average_order: Option<f64>,
    pub margin: f64,
    pub margin_percent: Option<f64>,
    pub returning_customers: u64,
    pub returning_percent: Option<f64>,
}

/// Changes of shares, in percentage points.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // as above
pub struct Points {
    pub margin_percent: Option<f64>,
    pub returning_percent: Option<f64>,
}

/// Changes in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // as above
pub struct Changes {
    pub revenue: Option<f64>,
    pub orders: Option<f64>,
    pub customers: Option<f64>,
    pub units: Option<f64>,
    pub average_order: Option<f64>,
    pub margin: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::{Figures, change, percent};

    #[test]
    fn nothing_has_no_share_and_no_change() {
        assert_eq!((percent(1.0, 3.0), percent(0.0, 0.0), change(5.0, 0.0)), (Some(33.33), None, None));
        assert_eq!(change(75.0, 100.0), Some(-25.0));
        let none = Figures::default();
        let some = Figures { customers: 4, returning: 1, revenue: 10.0, cost: 5.0, ..none };
        let less = Figures { customers: 4, returning: 3, revenue: 10.0, cost: 7.5, ..none };
        let points = some.points(&less);
        assert_eq!((points.margin_percent, points.returning_percent), (Some(25.0), Some(-50.0)));
        assert_eq!(some.points(&none).margin_percent, None);
        assert_eq!((none.average_order(), none.returning_percent(), none.margin_percent()), (None, None, None));
    }
}
