//! Variables that scenarios give to containers, beside those of the pod: log filters, failpoints.

use std::sync::{Arc, Mutex, PoisonError};

use super::images::short_name;

/// A table shared by a runner and its containers; a container reads it each time it starts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variables {
    all: Arc<Mutex<Vec<Variable>>>,
}

#[derive(Clone, Debug)]
struct Variable {
    image: String,
    name: String,
    value: String,
}

impl Variables {
    /// Sets a variable of every container of `image`, or takes it away.
    pub(crate) fn set(&self, image: &str, name: &str, value: Option<&str>) {
        let image = short_name(image);
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|each| each.image != image || each.name != name);
        if let Some(value) = value {
            all.push(Variable { image: image.to_owned(), name: name.to_owned(), value: value.to_owned() });
        }
    }

    /// The variables of a container of `image`, a full reference.
    pub(crate) fn of(&self, image: &str) -> Vec<(String, String)> {
        let image = short_name(image);
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|each| each.image == image).map(|each| (each.name.clone(), each.value.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_of_one_image_and_can_go_again() {
        let variables = Variables::default();
        variables.set("kubenova/operator", "RUST_LOG", Some("debug"));
        variables.set("kubenova/operator", "RUST_LOG", Some("info"));
        assert_eq!(variables.of("registry.example/kubenova/operator:1"), [("RUST_LOG".to_owned(), "info".to_owned())]);
        assert!(variables.of("oamdev/vela-core").is_empty());
        variables.set("kubenova/operator", "RUST_LOG", None);
        assert!(variables.of("kubenova/operator").is_empty());
    }
}
