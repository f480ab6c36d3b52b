//! Debug builds: every step as it was counted, one JSON object a line, in the file named by `KUBENOVA_STEPS_FILE`.
//!
//! Tests integrate the file on their own and compare. `at_ms` is already clipped to the oldest open window, `delta` is
//! what changed, `level` what it came to. After a restart a line with `"cause":"restored"` names the last step that the
//! checkpoint holds: earlier lines with a higher `sequence` never happened. Release builds contain nothing of it.

use kubenova_operator_core::metering::engine::Engine;
use kubenova_schema::meters::Meter;
use std::{fs::File, io::Write as _};

/// The file, if one is wanted.
#[derive(Debug, Default)]
pub(super) struct Steps {
    file: Option<File>,
}

impl Steps {
    /// Opens it for appending.
    pub(super) fn open() -> Self {
        if !cfg!(debug_assertions) {
            return Self::default();
        }
        let file = std::env::var_os("KUBENOVA_STEPS_FILE").and_then(|path| {
            File::options()
                .create(true)
                .append(true)
                .open(&path)
                .inspect_err(|error| {
                    tracing::warn!(path = %path.display(), %error, "could not open the file of steps");
                })
                .ok()
        });
        Self { file }
    }

    /// The meter continues from a checkpoint.
    pub(super) fn restored(&mut self, engine: &Engine) {
        self.write(&serde_json::json!({
            "cause": "restored", "sequence": engine.sequence, "at_ms": engine.now_ms, "tenant": "", "meter": "", "delta": "0", "level": "0",
        }));
    }

    /// Writes what was counted since the last call.
    pub(super) fn drain(&mut self, engine: &mut Engine) {
        let steps = engine.drain_steps();
        if self.file.is_none() || steps.is_empty() {
            return;
        }
        let mut levels = std::collections::BTreeMap::new();
        for (id, tenant) in &engine.windows.tenants {
            levels.insert(id.clone(), tenant.levels);
        }
        // Levels are those after the last step: walk back to those before the first.
        for (_, step) in steps.iter().rev() {
            let level = levels.entry(step.tenant_id.clone()).or_default();
            *level = level.minus(step.change);
        }
        for (sequence, step) in steps {
            let level = levels.entry(step.tenant_id.clone()).or_default();
            *level = level.plus(step.change);
            let level = *level;
            for meter in Meter::ALL.into_iter().filter(|meter| step.change.get(*meter) != 0) {
                self.write(&serde_json::json!({
                    "sequence": sequence, "tenant": step.tenant_id, "meter": meter.as_str(), "at_ms": step.at_ms,
                    "delta": step.change.get(meter).to_string(), "level": level.get(meter).to_string(),
                    "cause": step.cause.as_str(),
                }));
            }
        }
    }

    fn write(&mut self, line: &serde_json::Value) {
        if let Some(file) = &mut self.file
            && let Err(error) = writeln!(file, "{line}")
        {
            tracing::warn!(%error, "could not write to the file of steps");
        }
    }
}
