//! Trace context: the W3C `traceparent` that a REST request brings or gets, carried with every command it causes.
//!
//! It serves to follow one request through the Manager's and the Operator's logs and decides nothing: a command
//! without one, or with one that cannot be read, is carried out all the same.

use std::fmt;

/// Header of HTTP requests and of command messages.
pub const HEADER: &str = "traceparent";

/// A `traceparent` of version 00: which trace, which span is the parent, and whether it is recorded.
///
/// ```
/// use kubenova_schema::trace::TraceParent;
/// let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let parent = TraceParent::parse(text).unwrap();
/// assert_eq!(parent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
/// assert_eq!(parent.to_string(), text);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    span: u64,
    sampled: bool,
}

impl TraceParent {
    /// A new trace from 24 random bytes: the first 16 name the trace, the others its first span.
    #[must_use]
    pub fn from_random(bytes: [u8; 24]) -> Self {
        let (trace, span) = bytes.split_at(16);
        let number = |bytes: &[u8]| bytes.iter().fold(0_u128, |number, byte| (number << 8) | u128::from(*byte));
        // All zeros means "no trace" in the standard.
        let span = u64::try_from(number(span)).unwrap_or(1).max(1);
        Self { trace: number(trace).max(1), span, sampled: true }
    }

    /// Reads a header's value. None when it is not one, or its ids are all zeros. Of a later version, what version 00 has
    /// is read, as the standard says.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let mut field = |digits: usize| {
            let text = fields.next().filter(|text| text.len() == digits)?;
            text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(text)
        };
        let version = field(2).filter(|version| *version != "ff")?;
        let trace = u128::from_str_radix(field(32)?, 16).ok().filter(|trace| *trace != 0)?;
        let span = u64::from_str_radix(field(16)?, 16).ok().filter(|span| *span != 0)?;
        let flags = u8::from_str_radix(field(2)?, 16).ok()?;
        let complete = version != "00" || fields.next().is_none();
        complete.then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }

    /// The trace's id in hex, for the log field `trace.id`.
    #[must_use]
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    #[test]
    fn what_is_written_reads_back() {
        for bytes in [[0; 24], [255; 24], std::array::from_fn(|at| u8::try_from(at).unwrap())] {
            let parent = TraceParent::from_random(bytes);
            assert_eq!(TraceParent::parse(&parent.to_string()), Some(parent));
        }
        assert_eq!(TraceParent::parse(GOOD).unwrap().to_string(), GOOD);
    }

    #[test]
    fn other_texts_are_refused_and_later_versions_read() {
        let bad = [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-00",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
        ];
        for text in bad {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
        assert!(TraceParent::parse(&format!("01{}-more", &GOOD[2..])).is_some());
    }
}
