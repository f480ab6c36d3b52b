//! Panics as lines of the log, in its format, instead of plain text between JSON objects.

use std::panic::{PanicHookInfo, set_hook};

/// From now on every panic of the process is logged.
pub fn install() {
    set_hook(Box::new(log));
}

fn log(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("a panic without a message");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(
        panic.message = message,
        panic.location = location,
        "panicked: this is a bug in KubeNova, please report it with the lines before"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        panic::{catch_unwind, take_hook},
        sync::Mutex,
    };
    use tracing_subscriber::{fmt, layer::SubscriberExt as _};

    #[test]
    fn a_panic_is_one_line_of_the_log_that_says_where() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let layer = fmt::layer().json().with_writer(Mutex::new(file.reopen().unwrap()));
        install();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let number = 7;
            catch_unwind(|| panic!("the {number}th time")).unwrap_err();
        });
        drop(take_hook());
        let text = fs::read_to_string(file.path()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with('{') && text.contains("the 7th time"), "{text}");
        assert!(text.contains("panic_log.rs:"), "{text}");
    }
}
