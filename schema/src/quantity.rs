//! Kubernetes quantities, exactly: sign, digits, suffix; integers of 10^-9 throughout.
//!
//! The suffix is one of n u m k M G T P E, Ki Mi Gi Ti Pi Ei, or `e`/`E` with a signed exponent; an `E` not followed by
//! a sign or digit is exa. What is finer than 10^-9 is rounded away from zero, and a binary suffix counts to 2^63 - 1 at
//! most, as in the API server (`k8s.io/apimachinery/pkg/api/resource`). No float is involved: requests come back as
//! `644245094400m`, and usage has to be exact.
//!
//! Three kinds of text that the API server takes are refused, because it never writes them and no writer means them: one
//! without a digit (`Ki`, read as 0), an exponent of more than three digits (the API server computes the power for
//! minutes), and a number that 128 bits of 10^-9 cannot hold.

use std::fmt;

const NANO: i128 = 1_000_000_000;
/// The most that a number with a binary suffix counts as.
const BINARY_MAX: i128 = (i64::MAX as i128) * NANO;
/// Digits of an exponent. Three reach far past what can be counted either way.
const EXPONENT_DIGITS_MAX: usize = 3;

/// An amount in units of 10^-9.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(i128);

/// A text that is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// No digits, stray characters or an unknown suffix.
    #[error("\"{0}\" is not a Kubernetes quantity: write digits and one of n, u, m, k, M, G, T, P, E, Ki ... Ei")]
    Malformed(String),
    /// More than 10^29 or so, or more digits than that.
    #[error("quantity \"{0}\" is too large to be counted")]
    TooLarge(String),
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From units of 10^-9.
    #[must_use]
    pub const fn from_nano(nano: i128) -> Self {
        Self(nano)
    }

    /// In units of 10^-9.
    #[must_use]
    pub const fn nano(self) -> i128 {
        self.0
    }

    /// In thousandths, rounded up: millicores.
    #[must_use]
    pub fn milli_rounded_up(self) -> i128 {
        div_ceil(self.0, 1_000_000)
    }

    /// In ones, rounded up: bytes.
    #[must_use]
    pub fn units_rounded_up(self) -> i128 {
        div_ceil(self.0, NANO)
    }

    /// Sum.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Reads a quantity.
    ///
    /// # Errors
    /// When the text is none, or larger than can be counted.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let malformed = || QuantityError::Malformed(text.to_owned());
        let too_large = || QuantityError::TooLarge(text.to_owned());
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let number_end = rest.bytes().position(|byte| !byte.is_ascii_digit() && byte != b'.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(malformed());
        }
        let fraction = fraction.trim_end_matches('0');
        let mut mantissa: i128 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            mantissa = mantissa
                .checked_mul(10)
                .and_then(|value| value.checked_add(i128::from(digit - b'0')))
                .ok_or_else(too_large)?;
        }
        let fraction_digits = u32::try_from(fraction.len()).map_err(|_| too_large())?;
        let nano = match scale(suffix).ok_or_else(malformed)? {
            Scale::Nano(factor) => scaled(mantissa, factor, fraction_digits),
            Scale::Binary(factor) => {
                scaled(mantissa, factor, fraction_digits).or(Some(BINARY_MAX)).map(|nano| nano.min(BINARY_MAX))
            }
            Scale::Exponent(exponent) => shifted(mantissa, exponent.saturating_add(9) - i64::from(fraction_digits)),
        }
        .ok_or_else(too_large)?;
        Ok(Self(if negative { -nano } else { nano }))
    }
}

enum Scale {
    /// Multiply by this to get 10^-9.
    Nano(i128),
    /// The same, up to [`BINARY_MAX`].
    Binary(i128),
    /// Power of ten.
    Exponent(i64),
}

fn scale(suffix: &str) -> Option<Scale> {
    let binary = |power: u32| Some(Scale::Binary(1024_i128.pow(power) * NANO));
    match suffix {
        "n" => Some(Scale::Nano(1)),
        "u" => Some(Scale::Nano(1_000)),
        "m" => Some(Scale::Nano(1_000_000)),
        "" => Some(Scale::Nano(NANO)),
        "k" => Some(Scale::Exponent(3)),
        "M" => Some(Scale::Exponent(6)),
        "G" => Some(Scale::Exponent(9)),
        "T" => Some(Scale::Exponent(12)),
        "P" => Some(Scale::Exponent(15)),
        "E" => Some(Scale::Exponent(18)),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => exponent(suffix).map(Scale::Exponent),
    }
}

fn exponent(suffix: &str) -> Option<i64> {
    let digits = suffix.strip_prefix(['e', 'E'])?;
    let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    if unsigned.len() > EXPONENT_DIGITS_MAX || !unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// mantissa × factor ÷ 10^digits, rounded away from zero.
fn scaled(mantissa: i128, factor: i128, digits: u32) -> Option<i128> {
    match mantissa.checked_mul(factor) {
        Some(product) => match 10_i128.checked_pow(digits) {
            Some(divisor) => Some(div_ceil(product, divisor)),
            // Finer than 10^-38: something, but less than the smallest unit.
            None => Some(i128::from(product != 0)),
        },
        // The fraction may be what overflows: take common factors out first.
        None => {
            let divisor = 10_i128.checked_pow(digits)?;
            let common = gcd(factor, divisor);
            let product = mantissa.checked_mul(factor / common)?;
            Some(div_ceil(product, divisor / common))
        }
    }
}

fn shifted(mantissa: i128, power: i64) -> Option<i128> {
    if mantissa == 0 {
        return Some(0);
    }
    if power >= 0 {
        return mantissa.checked_mul(10_i128.checked_pow(u32::try_from(power).ok()?)?);
    }
    match u32::try_from(-power).ok().and_then(|digits| 10_i128.checked_pow(digits)) {
        Some(divisor) => Some(div_ceil(mantissa, divisor)),
        None => Some(1),
    }
}

fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn div_ceil(value: i128, divisor: i128) -> i128 {
    value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(NANO, ""), (1_000_000, "m"), (1_000, "u"), (1, "n")];
        let (unit, suffix) = units.into_iter().find(|(unit, _)| self.0 % unit == 0).unwrap_or((1, "n"));
        write!(f, "{}{suffix}", self.0 / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nano(text: &str) -> i128 {
        Quantity::parse(text).unwrap_or_else(|error| panic!("{error}")).nano()
    }

    #[test]
    fn vectors_that_floats_get_wrong() {
        assert_eq!(Quantity::parse("9223372036854775807").unwrap().units_rounded_up(), 9_223_372_036_854_775_807);
        assert_eq!(nano("1234567890123456789n"), 1_234_567_890_123_456_789);
        assert_eq!(Quantity::parse("1.5Gi").unwrap().units_rounded_up(), 1_610_612_736);
        assert_eq!(nano("1E"), 10_i128.pow(27));
        assert_eq!(Quantity::parse("7Ei").unwrap().units_rounded_up(), 7 * 1024_i128.pow(6));
        assert_eq!(Quantity::parse("644245094400m").unwrap().units_rounded_up(), 644_245_095);
    }

    #[test]
    fn exponents_signs_and_bare_points() {
        for (text, expected) in [
            ("1e3", 1_000 * NANO),
            ("1E3", 1_000 * NANO),
            ("1E+3", 1_000 * NANO),
            ("1e-3", 1_000_000),
            ("1.5e3", 1_500 * NANO),
            ("+5", 5 * NANO),
            ("-5m", -5_000_000),
            (".5", NANO / 2),
            ("5.", 5 * NANO),
            ("0", 0),
            ("0.000", 0),
            ("100m", 100_000_000),
            ("250u", 250_000),
            ("0Ki", 0),
            ("0e400", 0),
            ("-0", 0),
            ("00012", 12 * NANO),
            ("1.k", 1_000 * NANO),
            ("1.Ki", 1_024 * NANO),
            ("-.5Mi", -524_288 * NANO),
            ("1e03", 1_000 * NANO),
            ("1E18", 1_000_000_000_000_000_000 * NANO),
        ] {
            assert_eq!(nano(text), expected, "{text}");
        }
    }

    /// Each pair as `resource.ParseQuantity` of apimachinery v0.36 reads it.
    #[test]
    fn a_binary_suffix_ends_at_the_most_that_a_go_integer_holds() {
        for (text, expected) in [
            ("8Ei", BINARY_MAX),
            ("16Ei", BINARY_MAX),
            ("-16Ei", -BINARY_MAX),
            ("999999999999999Ei", BINARY_MAX),
            ("9223372036854775808Ki", BINARY_MAX),
            ("9223372036854775808", 9_223_372_036_854_775_808 * NANO),
            ("-7.9999999999999Ei", -9_223_372_036_854_660_515_849_539_316),
        ] {
            assert_eq!(nano(text), expected, "{text}");
        }
    }

    #[test]
    fn finer_than_a_billionth_is_rounded_away_from_zero() {
        assert_eq!(nano("0.1n"), 1);
        assert_eq!(nano("1e-20"), 1);
        assert_eq!(nano("-0.1n"), -1);
        assert_eq!(nano("1.0000000001"), NANO + 1);
        assert_eq!(nano("0.00001Ki"), 10_240_000);
        assert_eq!(nano("0.00000000001Ki"), 11);
    }

    #[test]
    fn rounding_up_is_per_meter() {
        assert_eq!(Quantity::parse("100100u").unwrap().milli_rounded_up(), 101);
        assert_eq!(Quantity::parse("1m").unwrap().units_rounded_up(), 1);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "Ki",
            "m",
            ".",
            "-",
            "1.2.3",
            "1ki",
            "1mi",
            "1KiB",
            "1e",
            "1e+",
            "1E-",
            " 1",
            "1 ",
            "0x10",
            "1K",
            "١",
            "1e1e1",
            "+",
            "1i",
            ".5i",
            "-3.01i",
            "1.1.M",
            "1+1.0M",
            "..5",
            "5..5",
            "1mm",
            "1Em",
            "1m3",
            "1m+",
            "1_0",
            "1e1000",
            "1e-1000",
            "1e4294967297",
        ] {
            assert!(matches!(Quantity::parse(text), Err(QuantityError::Malformed(_))), "{text}");
        }
        for text in ["1e60", "99999999999999999999999999999999999999999"] {
            assert!(matches!(Quantity::parse(text), Err(QuantityError::TooLarge(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(nano in -(1_i128 << 100)..(1_i128 << 100)) {
            let quantity = Quantity::from_nano(nano);
            prop_assert_eq!(Quantity::parse(&quantity.to_string()), Ok(quantity));
        }

        #[test]
        fn a_fraction_is_worth_its_digits(whole in 0_i128..1_000_000, digits in "[0-9]{1,9}", suffix in prop::sample::select(vec![("", 1_i128), ("k", 1_000), ("Ki", 1_024), ("Gi", 1_024 * 1_024 * 1_024)])) {
            let fraction: i128 = format!("{digits:0<9}").parse().unwrap();
            let expected = (whole * NANO + fraction) * suffix.1;
            prop_assert_eq!(Quantity::parse(&format!("{whole}.{digits}{}", suffix.0)).unwrap().nano(), expected);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,20}") {
            let _either = Quantity::parse(&text);
        }

        #[test]
        fn no_number_like_text_makes_it_panic(text in "[+-]?[0-9.]{0,45}[numkMGTPEKie]{0,2}[+-]?[0-9]{0,12}") {
            let _either = Quantity::parse(&text);
        }
    }
}
