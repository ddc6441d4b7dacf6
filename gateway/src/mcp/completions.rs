//! Completions for stores, categories, periods and tables, limited to what the caller may see.

use jiff::Timestamp;
use rmcp::{
    ErrorData,
    model::{CompleteRequestParams, CompleteResult, CompletionInfo, Reference},
};

use super::{prompts, resources};
use crate::{
    caller::Caller,
    tools::{Services, own, period::Period, stores},
};

const CATEGORIES: &str = "SELECT coalesce(json_agg(category_name ORDER BY category_name), '[]') FROM retail.categories";

/// What to complete, by its own name.
#[must_use]
pub fn known(request: &CompleteRequestParams) -> &'static str {
    match &request.r#ref {
        Reference::Prompt(prompt) => prompts::known(&prompt.name),
        Reference::Resource(resource) => resources::known(&resource.uri),
        _ => "unknown",
    }
}

/// Values for one argument that begin with or contain the text so far.
///
/// # Errors
/// Invalid params: no such argument. Internal: the database does not answer.
pub async fn complete(
    request: &CompleteRequestParams,
    services: &Services,
    caller: &Caller,
) -> Result<CompleteResult, ErrorData> {
    let argument = request.argument.name.as_str();
    let tools = caller.scope.tools();
    let known = match &request.r#ref {
        Reference::Prompt(prompt) => prompts::takes(&prompt.name, argument, tools),
        Reference::Resource(resource) => {
            resources::granted(tools) && resource.uri == resources::TABLE_TEMPLATE && argument == "table"
        }
        _ => false,
    };
    if !known {
        return Err(ErrorData::invalid_params("nothing to complete has this name and argument", None));
    }
    let failed =
        |error: crate::tools::ToolError| ErrorData::internal_error(error.message.clone(), Some(error.structured()));
    let values: Vec<String> = match argument {
        "store" => stores::in_scope(caller).into_iter().map(|(_, store)| store.name.to_string()).collect(),
        "period" => Period::names(Timestamp::now()),
        "table" => {
            let schema = services.tools.schemas().of(services, caller).await.map_err(failed)?;
            schema.names().map(str::to_owned).collect()
        }
        _ => {
            let names = own::document(services, caller, "completion", CATEGORIES).await.map_err(failed)?;
            serde_json::from_value(names).unwrap_or_default()
        }
    };
    let (values, total) = matching(values, &request.argument.value);
    let more = total > values.len();
    let info = CompletionInfo::with_pagination(values, u32::try_from(total).ok(), more);
    info.map(CompleteResult::new).map_err(|error| ErrorData::internal_error(error, None))
}

/// Values that begin with the text, then values that contain it, ignoring case; and the total number of both.
fn matching(values: Vec<String>, text: &str) -> (Vec<String>, usize) {
    let text = text.to_lowercase();
    let (mut first, rest): (Vec<_>, Vec<_>) =
        values.into_iter().partition(|value| value.to_lowercase().starts_with(&text));
    first.extend(rest.into_iter().filter(|value| value.to_lowercase().contains(&text)));
    let total = first.len();
    first.truncate(CompletionInfo::MAX_VALUES);
    (first, total)
}

#[cfg(test)]
mod tests {
    use super::matching;

    #[test]
    fn beginnings_come_first() {
        let values = ["Bellevue", "Seattle", "Kirkland"].map(str::to_owned).to_vec();
        assert_eq!(matching(values.clone(), "le"), (vec!["Bellevue".to_owned(), "Seattle".to_owned()], 2));
        assert_eq!(matching(values.clone(), "SEA").0, ["Seattle"]);
        assert_eq!(matching(values, "").1, 3);
        assert_eq!(matching(vec!["x".to_owned(); 150], "x").0.len(), 100);
    }
}
