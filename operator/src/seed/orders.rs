//! Orders and their lines: six years with seasons, week-ends and growth.

use jiff::{ToSpan, civil::Date};
use uuid::Uuid;

use super::{
    catalogue::{Catalogue, Product},
    customers::Customers,
    random::Stream,
    tenants::SampleTenant,
};

/// The days that the orders cover.
pub const DAYS: u64 = 6 * 365;

/// How many of 100 orders have 1, 2, 3, 4 and 5 lines: 2.45 on average.
const LINES: [u64; 5] = [29, 28, 22, 11, 10];

/// All orders of a tenant.
#[derive(Debug)]
pub struct Orders<'a> {
    sample: &'static SampleTenant,
    customers: &'a Customers,
    /// How many there are.
    pub count: u64,
    /// The days and the running sum of their weights: a day is found by bisection.
    days: Vec<(Date, u64)>,
    /// The same for products.
    products: Vec<(&'a Product, u64)>,
}

#[derive(Debug)]
pub struct Order {
    pub id: Uuid,
    pub store: Uuid,
    pub customer: Uuid,
    pub day: Date,
    /// Seconds after midnight, UTC.
    pub second: u64,
    pub lines: Vec<Line>,
}

/// One line of an order; amounts in cents.
#[derive(Debug)]
pub struct Line {
    pub id: Uuid,
    pub product: Uuid,
    pub quantity: u64,
    pub unit_price: u64,
    pub discount_percent: u64,
    pub discount_amount: u64,
    pub total: u64,
}

impl<'a> Orders<'a> {
    pub fn new(
        sample: &'static SampleTenant,
        catalogue: &'a Catalogue,
        customers: &'a Customers,
        count: u64,
        as_of: Date,
    ) -> Self {
        let mut sum = 0;
        let days = (0..DAYS)
            .map(|index| {
                let back = i64::try_from(DAYS - 1 - index).unwrap_or(0);
                let day = as_of.saturating_sub(back.days());
                // 8 % more every year, half as much again at week-ends
                let growth = 100 + index * 8 / 365;
                let weekend = if day.weekday().to_monday_zero_offset() >= 5 { 3 } else { 2 };
                sum += sample.seasons[usize::from(day.month().unsigned_abs()) - 1] * growth * weekend;
                (day, sum)
            })
            .collect();
        let mut sum = 0;
        let products = catalogue
            .products
            .iter()
            .map(|product| {
                sum += product.demand;
                (product, sum)
            })
            .collect();
        Self { sample, customers, count, days, products }
    }

    /// The day of each customer's first order, by the customer's number.
    pub fn first_days(&self) -> Vec<Option<Date>> {
        let mut first: Vec<Option<Date>> = (0..self.customers.count).map(|_| None).collect();
        for number in 0..self.count {
            let (_, customer, day) = self.begin(&mut Stream::new(self.sample.id, "order", number));
            if let Some(first) = usize::try_from(customer).ok().and_then(|at| first.get_mut(at)) {
                *first = Some(first.map_or(day, |known| known.min(day)));
            }
        }
        first
    }

    /// What is drawn first of an order: its identifier, the customer's number, the day.
    fn begin(&self, stream: &mut Stream) -> (Uuid, u64, Date) {
        let id = stream.uuid();
        // some customers come often: the smaller of two draws
        let customer = stream.below(self.customers.count).min(stream.below(self.customers.count));
        (id, customer, self.days[bisect(&self.days, stream)].0)
    }

    /// One order with its lines.
    pub fn order(&self, number: u64) -> Order {
        let mut stream = Stream::new(self.sample.id, "order", number);
        let (id, customer, day) = self.begin(&mut stream);
        let (customer, store) = self.customers.key(customer);
        // from eight in the morning to nine at night on the Pacific coast, which in UTC runs past midnight
        let second = (16 * 3_600 + stream.below(13 * 3_600)) % 86_400;
        let lines = (0..=stream.weighted(LINES.into_iter())).map(|_| self.line(&mut stream)).collect();
        Order { id, store, customer, day, second, lines }
    }

    fn line(&self, stream: &mut Stream) -> Line {
        let id = stream.uuid();
        let product = self.products[bisect(&self.products, stream)].0;
        let quantity = 1 + stream.weighted([60, 22, 10, 5, 3].into_iter()) as u64;
        let discount_percent = [0, 5, 10, 15, 20][stream.weighted([72, 10, 9, 5, 4].into_iter())];
        let gross = quantity * product.price;
        let discount_amount = (gross * discount_percent + 50) / 100;
        Line {
            id,
            product: product.id,
            quantity,
            unit_price: product.price,
            discount_percent,
            discount_amount,
            total: gross - discount_amount,
        }
    }
}

/// The index of an element, drawn in proportion to the weights whose running sums stand beside the elements.
fn bisect<T>(sums: &[(T, u64)], stream: &mut Stream) -> usize {
    let total = sums.last().map_or(0, |last| last.1);
    // more bits than `below` can take
    let drawn = u64::try_from((u128::from(stream.next()) * u128::from(total)) >> 64).unwrap_or(0);
    sums.partition_point(|&(_, sum)| sum <= drawn).min(sums.len() - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use jiff::civil::date;

    use super::*;
    use crate::seed::SAMPLES;

    #[test]
    fn orders_add_up_and_follow_the_stores_weights() {
        let sample = &SAMPLES[0];
        let catalogue = Catalogue::of(sample);
        let customers = Customers::new(sample, 5_000, date(2026, 6, 30));
        let orders = Orders::new(sample, &catalogue, &customers, 20_000, date(2026, 6, 30));
        let mut by_store: HashMap<Uuid, u32> = HashMap::new();
        let mut lines = 0;
        for number in 0..orders.count {
            let order = orders.order(number);
            assert!(order.day <= date(2026, 6, 30) && order.day > date(2020, 6, 30), "{}", order.day);
            *by_store.entry(order.store).or_default() += 1;
            lines += order.lines.len();
            for line in &order.lines {
                assert_eq!(line.total, line.quantity * line.unit_price - line.discount_amount);
            }
        }
        assert!((2.4..2.5).contains(&(lines as f64 / 20_000.0)), "{lines}");
        let of = |name: &str| by_store[&sample.stores.iter().find(|store| store.name == name).unwrap().id];
        assert!(of("Online") > of("Seattle") && of("Seattle") > of("Bellevue") && of("Redmond") > of("Spokane"));
    }

    /// Within a seventh of what the weights say, where a thousand orders and more are counted: a month that comes later in the
    /// year has a little growth, too.
    #[test]
    fn orders_follow_seasons_week_ends_and_growth() {
        for sample in &SAMPLES {
            let catalogue = Catalogue::of(sample);
            let customers = Customers::new(sample, 5_000, date(2026, 6, 30));
            let orders = Orders::new(sample, &catalogue, &customers, 20_000, date(2026, 6, 30));
            let days: Vec<Date> = (0..orders.count).map(|number| orders.order(number).day).collect();
            let count = |of: &dyn Fn(&Date) -> bool| days.iter().filter(|day| of(day)).count() as f64;
            let near = |what: &str, found: f64, wanted: f64| {
                assert!((found / wanted - 1.0).abs() < 0.14, "{} {what}: {found:.3}, not {wanted:.3}", sample.id);
            };
            let month = |month: i8| {
                count(&|day| day.month() == month) / sample.seasons[month.unsigned_abs() as usize - 1] as f64
            };
            // Each month once in each year; January has a day more than June.
            near("June against January", month(6) / month(1), 30.0 / 31.0);
            near("April against October", month(4) / month(10), 30.0 / 31.0);
            let weekend = count(&|day| day.weekday().to_monday_zero_offset() >= 5) / 2.0;
            let weekday = count(&|day| day.weekday().to_monday_zero_offset() < 5) / 5.0;
            near("week-ends", weekend / weekday, 1.5);
            let year = |back: i64| {
                let last = date(2026, 6, 30).saturating_sub((back * 365).days());
                count(&|day| *day <= last && *day > last.saturating_sub(365.days()))
            };
            // 100 and eight more in each year: 144 in the middle of the last one, 104 in that of the first.
            near("the last year against the first", year(0) / year(5), 144.0 / 104.0);
        }
    }

    #[test]
    fn nobody_orders_before_being_a_customer() {
        let sample = &SAMPLES[0];
        let catalogue = Catalogue::of(sample);
        let customers = Customers::new(sample, 1_250, date(2026, 6, 30));
        let orders = Orders::new(sample, &catalogue, &customers, 5_000, date(2026, 6, 30));
        let first = orders.first_days();
        let since: HashMap<Uuid, Date> = (0..customers.count)
            .map(|number| customers.customer(number, first[usize::try_from(number).unwrap()]))
            .map(|customer| (customer.id, customer.since))
            .collect();
        for number in 0..orders.count {
            let order = orders.order(number);
            assert!(since[&order.customer] < order.day, "{order:?}");
        }
        assert!(first.iter().any(Option::is_none) && first.iter().filter(|day| day.is_some()).count() > 1_000);
    }
}
