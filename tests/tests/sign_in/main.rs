//! An analyst's first minutes: the editor's configuration, signing in with a browser, the first answered question.

mod browser;
mod editor;
mod flow;
mod page;

use std::process::ExitCode;

use storefence_tests::{Shared, Suite};

fn main() -> ExitCode {
    let suite = Suite::new(page::stack);
    suite
        .test("the_editors_servers_answer_as_whom_they_say", |s| async move { editor::servers(&s).await })
        .test("the_pages_tools_and_questions_are_there", |s| async move { editor::page(&s).await })
        .test("from_the_401_to_the_first_answered_question", |s| async move { flow::first_question(&s).await })
        .test("who_cancels_gets_nothing", |s| async move { flow::cancelled(&s).await })
        .test("a_page_of_an_allowed_origin_shows_a_row", |s| async move { page::asks_across_origins(&s).await })
        .run(Shared::stop)
}
