//! The meters. Quantities are integers; the unit is part of the name. Definitions: the ResourceQuota rule, so that
//! figures can be checked against the cluster itself.

/// What is metered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Meter {
    /// CPU requests of non-terminal pods, millicore·ms.
    CpuRequests,
    /// Memory requests of non-terminal pods, byte·ms.
    MemoryRequests,
    /// Non-terminal pods, count·ms.
    Pods,
    /// Namespaces of the tenant, count·ms.
    Namespaces,
    /// KubeVela Applications, count·ms.
    Applications,
}

impl Meter {
    /// Every meter of this release, in the order of the ledger's columns.
    pub const ALL: [Self; 5] =
        [Self::CpuRequests, Self::MemoryRequests, Self::Pods, Self::Namespaces, Self::Applications];

    /// The text in messages; REST and billing events use the same.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CpuRequests => "cpuRequestMillicoreMs",
            Self::MemoryRequests => "memoryRequestByteMs",
            Self::Pods => "podCountMs",
            Self::Namespaces => "namespaceCountMs",
            Self::Applications => "applicationCountMs",
        }
    }

    /// The meter with this text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|meter| meter.as_str() == text)
    }
}
