//! What in the Operator's chart follows from other files of it: the table of values in its README, from the comments in `values.yaml`, and
//! the names of its admission policies.

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::Path};

const CHART: &str = "deploy/helm/operator";
/// Around the table.
const MARK: &str = "<!-- values -->";

/// The names of the chart's policies: those it has, and those it had.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PolicyNames {
    current: BTreeSet<String>,
    dropped: BTreeSet<String>,
}

/// The path and content of `files/policies.yaml`: a name that the templates have no more moves to `dropped`, and the chart deletes it where
/// an earlier chart has installed it.
pub(crate) fn policies(root: &Path) -> Result<(String, String)> {
    let file = format!("{CHART}/files/policies.yaml");
    let before: PolicyNames = match fs::read_to_string(root.join(&file)) {
        Ok(text) if !text.trim().is_empty() => {
            serde_saphyr::from_str(&text).with_context(|| format!("could not read {file}"))?
        }
        _ => PolicyNames::default(),
    };
    let mut current = BTreeSet::new();
    let templates = root.join(CHART).join("templates/policies");
    for entry in fs::read_dir(&templates).with_context(|| format!("could not read {}", templates.display()))? {
        let text = fs::read_to_string(entry?.path())?;
        let policies = text.split("kind: ValidatingAdmissionPolicy\n").skip(1);
        current
            .extend(policies.filter_map(|rest| Some(rest.split_once("  name: ")?.1.lines().next()?.trim().to_owned())));
    }
    ensure!(!current.is_empty(), "there is no policy below {}", templates.display());
    ensure!(current.iter().all(|name| !name.contains('{')), "the name of a policy is text: {current:?}");
    let dropped = before.current.union(&before.dropped).filter(|name| !current.contains(*name)).cloned().collect();
    let list = |names: &BTreeSet<String>| match names.len() {
        0 => " []\n".to_owned(),
        _ => names.iter().fold("\n".to_owned(), |list, name| format!("{list}  - {name}\n")),
    };
    let names = PolicyNames { current, dropped };
    let content = format!(
        "# Written by `cargo dev gen` from templates/policies. What the chart has no more moves to `dropped` and is deleted at the next upgrade.\n\
         current:{}dropped:{}",
        list(&names.current),
        list(&names.dropped)
    );
    Ok((file, content))
}

/// The path and content of the chart's README, with its table of values.
pub(crate) fn readme(root: &Path) -> Result<(String, String)> {
    let file = format!("{CHART}/README.md");
    let read = |name: &str| {
        let path = root.join(CHART).join(name);
        fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
    };
    let (text, schema) = (read("README.md")?, serde_json::from_str(&read("values.schema.json")?)?);
    let parts: Vec<&str> = text.split(MARK).collect();
    let [before, _, after] = parts[..] else { bail!("{file} does not have two lines {MARK}") };
    let table = table(&read("values.yaml")?, &schema)?;
    Ok((file, format!("{before}{MARK}\n{table}{MARK}{after}")))
}

/// A row for each value, in the order of `values.yaml`. A mapping whose fields the schema names is no value itself.
fn table(text: &str, schema: &Value) -> Result<String> {
    let values: Value = serde_saphyr::from_str(text).context("values.yaml is not YAML")?;
    let mut table = "| Value | Default | Meaning |\n| --- | --- | --- |\n".to_owned();
    let mut comment = String::new();
    // The names above the current line, each with its indentation.
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut inside_value = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let trimmed = line.trim();
        if trimmed.is_empty() {
            comment.clear();
            continue;
        }
        if inside_value.is_some_and(|value| indent > value) {
            continue;
        }
        inside_value = None;
        if let Some(more) = trimmed.strip_prefix('#') {
            comment.push_str(more);
            continue;
        }
        let (key, _) = trimmed.split_once(':').with_context(|| format!("values.yaml: no key in {line:?}"))?;
        path.retain(|(above, _)| *above < indent);
        path.push((indent, key.to_owned()));
        let names: Vec<&str> = path.iter().map(|(_, name)| name.as_str()).collect();
        let name = names.join(".");
        let of_schema = names.iter().try_fold(schema, |schema, name| schema["properties"].get(name));
        let of_schema = of_schema.with_context(|| format!("values.schema.json does not have {name}"))?;
        if of_schema.get("properties").is_none() {
            let meaning = comment.trim();
            ensure!(!meaning.is_empty(), "values.yaml: {name} has no comment");
            let default = names.iter().fold(&values, |value, name| &value[*name]);
            table.push_str(&format!("| `{name}` | {} | {} |\n", shown(default), meaning.replace('|', "\\|")));
            inside_value = Some(indent);
        }
        comment.clear();
    }
    Ok(table)
}

fn shown(default: &Value) -> String {
    match default {
        Value::String(text) if text.is_empty() => String::new(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Value {
        json!({"properties": {
            "a": {"properties": {"b": {"type": "string"}, "c": {"type": "object"}}},
            "d": {"type": "integer"}
        }})
    }

    #[test]
    fn each_value_is_a_row_and_a_free_mapping_is_one_value() {
        let text = "# Not a value's.\n\na:\n  # About b,\n  # in two lines.\n  b: x\n  # About c.\n  c:\n    e: [1]\n\n# About d.\nd: 3\n";
        let rows = table(text, &schema()).unwrap();
        let rows: Vec<&str> = rows.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| `a.b` | `x` | About b, in two lines. |",
                "| `a.c` | `{\"e\":[1]}` | About c. |",
                "| `d` | `3` | About d. |"
            ]
        );
    }

    #[test]
    fn a_value_without_comment_or_schema_is_an_error() {
        let error = |text: &str| table(text, &schema()).unwrap_err().to_string();
        assert!(error("d: 3\n").contains("d has no comment"));
        assert!(error("# About f.\nf: 3\n").contains("does not have f"));
    }
}
