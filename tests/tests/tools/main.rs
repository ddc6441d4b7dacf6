//! The tools over the real binaries: each answer compared with SQL run as administrator, as three roles, and what a tool
//! says to wrong arguments and to stores that are not the caller's.

mod administrator;
mod documented;
mod errors;
mod every_tool;
mod figures;
mod products;
mod questions;
mod schemas;
mod surface;
mod wrong_calls;

use std::process::ExitCode;

use storefence_tests::{Shared, Suite};

fn main() -> ExitCode {
    let suite = Suite::new(Shared::with_examples);
    suite
        .test("the_zava_questions_as_three_roles", |s| async move { questions::zava(&s).await })
        .test("the_zava_questions_through_rmcp", |s| async move { questions::by_rmcp(&s).await })
        .test("store_performance_counts_what_the_administrator_counts", |s| async move { figures::compared(&s).await })
        .test("store_performance_of_one_store", |s| async move { figures::one_store(&s).await })
        .test("insights_hold_the_figures_they_speak_of", |s| async move { figures::insights(&s).await })
        .test("products_bought_together_and_trending", |s| async move { products::counted(&s).await })
        .test("similar_products_are_of_the_same_category", |s| async move { products::similar(&s).await })
        .test("schemas_match_the_catalog", |s| async move { schemas::catalog(&s).await })
        .test("valid_values_are_those_of_the_scope", |s| async move { schemas::scope(&s).await })
        .test("counting_rows_stops_where_it_costs_more_than_it_tells", |s| async move { schemas::many(&s).await })
        .test("a_year_without_orders_is_no_valid_value", |s| async move { schemas::gap(&s).await })
        .test("a_new_column_shows_at_once", |s| async move { schemas::migrated(&s).await })
        .test("whoami_tells_role_stores_rules_and_limits", |s| async move { surface::whoami(&s).await })
        .test("wrong_arguments_name_field_value_and_form", |s| async move { errors::arguments(&s).await })
        .test("typical_wrong_calls_say_what_to_do_next", |s| async move { wrong_calls::answered(&s).await })
        .test("every_argument_of_every_tool_is_checked", |s| async move { every_tool::arguments(&s).await })
        .test("errors_are_counted_by_tool_and_code", |s| async move { every_tool::by_code(&s).await })
        .test("foreign_and_unknown_stores_answer_alike", |s| async move { errors::stores(&s).await })
        .test("missing_names_get_the_nearest_valid_ones", |s| async move { errors::names(&s).await })
        .test("what_cannot_be_read_is_the_gateways_own_error", |s| async move { errors::unreadable(&s).await })
        .test("a_timeout_quotes_the_statement", |s| async move { errors::timeout(&s).await })
        .test("the_examples_keep_answers_for_five_minutes", |_| async { surface::examples_keep_answers() })
        .test("definitions_describe_themselves", |s| async move { surface::definitions(&s).await })
        .test("text_and_structured_content_are_the_same_data", |s| async move { surface::same_data(&s).await })
        .test("prompts_resources_and_completions_by_scope", |s| async move { surface::by_scope(&s).await })
        .test("the_documents_examples_work", |s| async move { documented::examples(&s).await })
        .run(Shared::stop)
}
