//! What to do next about an error of PostgreSQL, by its SQLSTATE: its message says what is wrong and stops there.

/// The way out of an error that a statement's author can correct.
#[must_use]
pub fn next(sqlstate: &str) -> &'static str {
    match sqlstate {
        "42703" => "get_multiple_table_schemas has the columns of each table",
        // The tables are named after the message.
        "42P01" => "",
        "42601" => "correct the statement there; PostgreSQL's dialect is expected",
        "42702" => "put the alias of its table before it",
        "42712" => "give each table an alias of its own",
        "42803" => "add the column to GROUP BY or aggregate it, and filter aggregates with HAVING",
        "42P20" => "compute the window function in a subquery, and filter outside of it",
        "42883" => {
            "use a function or operator of PostgreSQL for these types, or cast the arguments, such as x::numeric or x::text"
        }
        "42804" | "42846" | "42P18" | "42725" => "cast the values to one type, such as x::numeric or x::text",
        "42P10" => "name the column in the select list as well, or sort by its position",
        "22P02" | "22007" | "22008" | "22018" => {
            "write the value as its type has it, such as '2026-01-31' or 12.5, or compare as text"
        }
        "22012" => "divide by nullif(divisor, 0)",
        "22003" => "cast to numeric before computing",
        "21000" => "take one row with LIMIT 1 or an aggregate, or compare with IN",
        "2201W" | "2201X" => "LIMIT and OFFSET take whole numbers from 0",
        "0A000" => "write it in another way",
        code if code.starts_with("53") || code.starts_with("54") => "select less, or aggregate more",
        code if code.starts_with("22") => "correct the value, or filter the rows that have it",
        _ => "correct the statement and call again",
    }
}

#[cfg(test)]
mod tests {
    use super::next;

    #[test]
    fn every_error_has_a_way_out_but_the_one_that_gets_the_tables() {
        for sqlstate in ["42703", "42601", "22012", "22023", "53100", "54001", "XX000", ""] {
            assert!(next(sqlstate).len() > 10, "{sqlstate}");
        }
        assert_eq!(next("42P01"), "");
    }
}
