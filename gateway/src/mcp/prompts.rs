//! Prompts for the questions that come up every week. Each names the tool or the statement that answers it.

use jiff::Timestamp;
use rmcp::{
    ErrorData,
    model::{GetPromptRequestParams, GetPromptResult, Prompt, PromptArgument, PromptMessage, Role},
};
use serde_json::Value;
use storefence_tenancy::{resource::ToolName, rules::ToolSet};

use crate::{
    caller::Caller,
    tools::{period::Period, stores},
};

/// One recurring question.
struct Question {
    name: &'static str,
    title: &'static str,
    description: &'static str,
    /// The arguments, all optional.
    arguments: &'static [&'static str],
    /// The text; `{stores}`, `{period}` and `{category}` are filled in.
    text: &'static str,
}

impl Question {
    /// Whether a caller with these tools can follow the whole text.
    fn fits(&self, tools: &ToolSet) -> bool {
        ToolName::ALL.map(ToolName::as_str).into_iter().all(|tool| !self.text.contains(tool) || tools.contains(tool))
    }

    /// The prompt of this name, if a caller with these tools has it.
    fn find(name: &str, tools: &ToolSet) -> Option<&'static Self> {
        QUESTIONS.iter().find(|question| question.name == name).filter(|question| question.fits(tools))
    }
}

const STORE: &str = "store";
const PERIOD: &str = "period";
const CATEGORY: &str = "category";

const QUESTIONS: [Question; 5] = [
    Question {
        name: "category_performance",
        title: "Category performance",
        description: "Which categories sell, grow and shrink",
        arguments: &[STORE, PERIOD],
        text: "How did the product categories do in {stores} over {period}? Use get_store_performance for the totals and the \
               comparison with the period before and the year before, and execute_sales_query for product types within a \
               category. Say which categories carry the revenue and which moved most, with the figures.",
    },
    Question {
        name: "customer_value",
        title: "Customer value",
        description: "The most valuable customers and how many come back",
        arguments: &[STORE, PERIOD],
        text: "Who are the most valuable customers of {stores} over {period}, and how many customers come back? Look at customers, \
               orders and order_items with get_multiple_table_schemas, then use execute_sales_query: revenue, orders and last \
               order per customer for the first 20, and the share of customers with more than one order.",
    },
    Question {
        name: "monthly_trends",
        title: "Trends by month",
        description: "Revenue and orders by month for the last twelve months",
        arguments: &[STORE, CATEGORY],
        text: "Show revenue, order count and average order by month for the last 12 months in {stores}{category}. Ask \
               get_current_utc_date first, then use execute_sales_query with date_trunc('month', order_date). Point out the \
               season and any month that stands out against the same month a year before.",
    },
    Question {
        name: "stock_at_risk",
        title: "Stock at risk",
        description: "Products that sell and will run out, or have run out",
        arguments: &[STORE, CATEGORY],
        text: "Which products are out of stock or will run out within two weeks in {stores}{category}? Use execute_sales_query: units \
               sold per store and product over the last 30 days against inventory.stock_level, ordered by lost revenue. List \
               product, store, stock, units per day and days left.",
    },
    Question {
        name: "top_products",
        title: "Top products",
        description: "The ten products with the most revenue",
        arguments: &[STORE, PERIOD, CATEGORY],
        text: "What are the top 10 products by revenue in {stores} over {period}{category}? Use get_store_performance, or \
               execute_sales_query where a category is asked for. Give revenue, units and the change against the period before.",
    },
];

/// The prompts that a caller with these tools can follow, ordered by name.
#[must_use]
pub fn list(tools: &ToolSet) -> Vec<Prompt> {
    QUESTIONS
        .iter()
        .filter(|question| question.fits(tools))
        .map(|question| {
            let arguments = question.arguments.iter().map(|name| {
                let description = match *name {
                    STORE => "Name of one of your stores; all of them where it is left out",
                    PERIOD => "7d, 30d, 90d, mtd, qtd, ytd, YYYY-MM or YYYY-Qn; 30d where it is left out",
                    _ => "Name of a product category; all of them where it is left out",
                };
                PromptArgument::new(*name).with_description(description).with_required(false)
            });
            Prompt::new(question.name, Some(question.description), Some(arguments.collect())).with_title(question.title)
        })
        .collect()
}

/// The prompt's own name, or the label for an unknown prompt.
#[must_use]
pub fn known(name: &str) -> &'static str {
    QUESTIONS.iter().find(|question| question.name == name).map_or("unknown", |question| question.name)
}

/// Whether one of the prompts of a caller with these tools takes this argument.
#[must_use]
pub fn takes(prompt: &str, argument: &str, tools: &ToolSet) -> bool {
    Question::find(prompt, tools).is_some_and(|question| question.arguments.contains(&argument))
}

/// The text of one prompt.
///
/// # Errors
/// Invalid params: an unknown prompt (which includes one whose tools the caller lacks), an unknown argument, a store
/// that is not the caller's, or an invalid period.
pub fn get(request: GetPromptRequestParams, caller: &Caller) -> Result<GetPromptResult, ErrorData> {
    let invalid = |message: String| ErrorData::invalid_params(message, None);
    let Some(question) = Question::find(&request.name, caller.scope.tools()) else {
        let name: String = request.name.chars().take(128).collect();
        return Err(invalid(format!("Unknown prompt: {name}")));
    };
    let mut arguments = request.arguments.unwrap_or_default();
    let mut take = |name: &str| match arguments.remove(name) {
        None | Some(Value::Null) => Ok(None),
        // An empty form field counts as left out.
        Some(Value::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Some(_) => Err(invalid(format!("{name}: a string is expected"))),
    };
    let (mut store, mut period, mut category) = (None, None, None);
    for name in question.arguments {
        *(match *name {
            STORE => &mut store,
            PERIOD => &mut period,
            _ => &mut category,
        }) = take(name)?;
    }
    if let Some(name) = arguments.keys().next() {
        let name: String = name.chars().take(64).collect();
        return Err(invalid(format!(
            "unknown argument {name}; {} takes {}",
            question.name,
            question.arguments.join(", ")
        )));
    }
    let stores = match store {
        Some(text) => {
            format!("the store {}", stores::named(caller, &text).map_err(|error| invalid(error.message))?.1.name)
        }
        None => {
            let names: Vec<_> = stores::in_scope(caller).into_iter().map(|(_, store)| &*store.name).collect();
            format!("my stores ({})", names.join(", "))
        }
    };
    let period = period.unwrap_or_else(|| "30d".to_owned());
    Period::named(&period, Timestamp::now()).map_err(|error| invalid(error.message))?;
    if category.as_ref().is_some_and(|name| name.chars().count() > 100 || name.contains(char::is_control)) {
        return Err(invalid("category: a name of at most 100 characters is expected".to_owned()));
    }
    let category = category.map(|name| format!(", category {name:?} only")).unwrap_or_default();
    let text = question.text.replace("{period}", &period).replace("{stores}", &stores).replace("{category}", &category);
    Ok(GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)]).with_description(question.description))
}

#[cfg(test)]
mod tests {
    use storefence_tenancy::{resource::ToolName, rules::ToolSet};

    use super::{QUESTIONS, list, takes};

    #[test]
    fn texts_and_arguments_belong_together() {
        for question in &QUESTIONS {
            assert!(question.text.contains("{stores}"), "{}", question.name);
            assert_eq!(question.text.contains("{period}"), question.arguments.contains(&"period"), "{}", question.name);
            assert_eq!(
                question.text.contains("{category}"),
                question.arguments.contains(&"category"),
                "{}",
                question.name
            );
        }
        let all = ToolSet::All;
        let names: Vec<_> = list(&all).into_iter().map(|prompt| prompt.name).collect();
        assert!(names.is_sorted() && takes("top_products", "category", &all) && !takes("top_products", "x", &all));
    }

    #[test]
    fn a_prompt_needs_each_tool_that_it_names() {
        let names = |tools: &[ToolName]| -> Vec<String> {
            let tools = ToolSet::Some(tools.iter().copied().collect());
            list(&tools).into_iter().map(|prompt| prompt.name).collect()
        };
        assert_eq!(names(&[ToolName::ExecuteSalesQuery]), ["monthly_trends", "stock_at_risk"]);
        assert!(names(&[ToolName::GetStorePerformance, ToolName::GetMultipleTableSchemas]).is_empty());
        assert_eq!(names(&ToolName::ALL).len(), QUESTIONS.len());
    }
}
