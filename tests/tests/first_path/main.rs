//! The whole path on real parts: apply a RetailTenant, ask with a token, get your stores' rows and no others.

mod bad_input;
mod editing;
mod questions;

use std::process::ExitCode;

use storefence_tests::{Shared, Suite};

fn main() -> ExitCode {
    let suite = Suite::new(Shared::with_examples);
    suite
        .test("the_tenants_are_listed_with_useful_columns", |s| async move { editing::listed(&s) })
        .test("each_principal_counts_what_the_administrator_counts", |s| async move { questions::counts(&s).await })
        .test("head_office_sees_the_sum_of_all_stores", |s| async move { questions::sum(&s).await })
        .test("a_contoso_principal_sees_no_zava_row_in_any_table", |s| async move { questions::foreign(&s).await })
        .test("every_tool_answers_in_both_revisions", |s| async move { questions::tools(&s).await })
        .test("the_tenants_own_endpoint_answers_as_the_common_one", |s| async move { questions::endpoints(&s).await })
        .test("zero_rows_keep_their_column_names", |s| async move { questions::zero_rows(&s).await })
        .test("requests_without_a_good_token_get_401", |s| async move { bad_input::unauthorized(&s).await })
        .test(
            "a_principal_that_matches_no_rule_connects_and_reads_why",
            |s| async move { bad_input::forbidden(&s).await },
        )
        .test("sql_that_cannot_be_answered_is_a_tool_error", |s| async move { bad_input::sql(&s).await })
        .test("too_many_rows_are_cut_and_said", |s| async move { bad_input::truncated(&s).await })
        .test("invalid_fields_are_refused_at_apply", |s| async move { bad_input::manifests(&s).await })
        .test("a_taken_tenant_id_is_a_conflict_and_the_first_keeps_working", |s| async move {
            bad_input::conflict(&s).await
        })
        .test("a_missing_setting_stops_start_up_with_its_name", |s| async move { bad_input::settings(&s) })
        .test("editing_the_yaml_changes_who_sees_what_within_two_seconds", |s| async move {
            editing::within_two_seconds(&s).await
        })
        .test("a_database_away_at_apply_is_said_and_mended", |s| async move { editing::database_away(&s).await })
        .test("a_vault_away_at_apply_is_said_and_mended", |s| async move { editing::vault_away(&s).await })
        .run(Shared::stop)
}
