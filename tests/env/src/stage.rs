//! The stages of the sandbox's helper: one program that becomes the sandbox's init and, later, each container.

/// The variable that names the stage.
pub(crate) const STAGE: &str = "KUBENOVA_SANDBOX_STAGE";
/// The first process inside the sandbox; see [`crate::sandbox`].
pub(crate) const STAGE_INIT: &str = "init";
/// The process that becomes a container; see `pod_runner::container`.
pub(crate) const STAGE_CONTAINER: &str = "container";
