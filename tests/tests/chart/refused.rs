//! What an API server would refuse is refused before anything is installed; what it takes is not; and whatever may be left
//! empty may be left empty.

use serde_json::{Value, json};
use storefence_tests::outside::helm::helm;

use crate::{
    readme::defaults,
    render::{available, helm_template, merge, read, render, values},
};

/// A value at a path such as `gateway.pool.total`, beside the least that an installation says.
fn with(set: &str, path: &str, value: &Value) -> Value {
    merge(&values(set), &path.rsplit('.').fold(value.clone(), |value, key| json!({key: value})))
}

fn cases(name: &str) -> Vec<Vec<Value>> {
    serde_saphyr::from_str(&read(&format!("tests/chart/{name}.yaml"))).unwrap()
}

/// Path, value and what a refusal has to name; nothing where it has to be accepted.
fn expected() -> Vec<(String, Value, Option<String>)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = cases("refused").into_iter().chain(cases("accepted"));
    all.map(|case| (text(&case[0]), case[1].clone(), case.get(2).map(text))).collect()
}

fn judge(by: &str, (path, value, refused): &(String, Value, Option<String>), error: Option<&str>) {
    match (refused, error) {
        (Some(words), Some(error)) => assert!(error.contains(words), "{by}: {path} = {value}: {error}"),
        (Some(_), None) => panic!("{by}: {path} = {value} is accepted"),
        (None, Some(error)) => panic!("{by}: {path} = {value} is refused: {error}"),
        (None, None) => {}
    }
}

#[test]
fn what_the_server_refuses_is_refused_by_name() {
    if !available() {
        return;
    }
    let expected = expected();
    let sets: Vec<Value> = expected.iter().map(|(path, value, _)| with("minimal", path, value)).collect();
    for (case, answer) in expected.iter().zip(render(&sets)) {
        judge("the SDK", case, answer.as_ref().err().map(String::as_str));
    }
}

/// The two major versions have different engines for the schema.
#[test]
fn helm_3_and_helm_4_judge_alike() {
    for major in [3, 4] {
        let Some(helm) = helm(major).unwrap_or_else(|error| panic!("{error:#}")) else { continue };
        for case in &expected() {
            let answer = helm_template(&helm, &with("minimal", &case.0, &case.1));
            judge(&format!("Helm {major}"), case, answer.as_ref().err().map(String::as_str));
        }
        for path in ["commonLabels", "gateway.podLabels", "gateway.pool", "azure.caBundle", "networkPolicy.egress"] {
            helm_template(&helm, &with("minimal", path, &Value::Null))
                .unwrap_or_else(|error| panic!("Helm {major}: {path} is empty: {error}"));
        }
    }
}

/// Every path of the values but those of free maps.
fn paths(value: &Value, path: &str, found: &mut Vec<String>) {
    if !path.is_empty() {
        found.push(path.to_owned());
    }
    for (key, below) in value.as_object().into_iter().flatten() {
        paths(below, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, found);
    }
}

/// What an author may leave empty who means nothing by it.
#[test]
fn a_value_that_is_left_empty_has_its_default() {
    /// What is empty then, and not the default.
    const EMPTIED: [&str; 4] = ["resources", "labels", "seed", "podSecurityContext"];
    if !available() {
        return;
    }
    let mut all = Vec::new();
    paths(&defaults(), "", &mut all);
    let given = values("minimal");
    // What is required is another test's.
    let all: Vec<&String> =
        all.iter().filter(|path| given.pointer(&format!("/{}", path.replace('.', "/"))).is_none()).collect();
    assert!(all.len() > 150, "{}", all.len());
    let mut sets = vec![given];
    sets.extend(all.iter().map(|path| with("minimal", path, &Value::Null)));
    let mut rendered = render(&sets).into_iter();
    let unchanged = rendered.next().unwrap().unwrap();
    for (path, answer) in all.iter().zip(rendered) {
        let files = answer.unwrap_or_else(|error| panic!("{path} is empty: {error}"));
        if !path.split('.').any(|key| EMPTIED.contains(&key)) {
            assert!(files == unchanged, "{path} is empty: it has not its default");
        }
    }
}

/// Beside everything that can be set, and with lists that are empty: rendered, or refused in one of the chart's own sentences.
#[test]
fn nothing_that_is_empty_crashes_a_template() {
    const SENTENCES: [&str; 5] =
        ["is empty", "is not given", "is for development", "there is no volume", "minItems: got 0"];
    if !available() {
        return;
    }
    let mut all = Vec::new();
    paths(&defaults(), "", &mut all);
    for set in ["production", "devstack"] {
        let mut sets = Vec::new();
        for path in &all {
            sets.push((path, with(set, path, &Value::Null)));
            if defaults().pointer(&format!("/{}", path.replace('.', "/"))).is_some_and(Value::is_array) {
                sets.push((path, with(set, path, &json!([]))));
            }
        }
        let values: Vec<Value> = sets.iter().map(|(_, values)| values.clone()).collect();
        for ((path, _), answer) in sets.iter().zip(render(&values)) {
            let Err(error) = answer else { continue };
            assert!(SENTENCES.iter().any(|sentence| error.contains(sentence)), "{set}, {path} is empty: {error}");
        }
    }
}
