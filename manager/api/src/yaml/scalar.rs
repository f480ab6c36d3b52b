//! What a YAML scalar means, decided exactly as kubectl decides it (sigs.k8s.io/yaml over go-yaml v2: YAML 1.1).
//!
//! Pure. The table in the tests was printed by sigs.k8s.io/yaml 1.6.0.

use data_encoding::BASE64;
use serde_json::{Number, Value};

/// A tag that changes what a scalar means. Tags of collections and tags of the writer's own mean nothing to kubectl.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScalarTag {
    /// No tag, a plain scalar: the text decides.
    Untagged,
    /// A quoted scalar, `!!str`, or a tag that kubectl does not know.
    Text,
    /// `!!bool`.
    Bool,
    /// `!!int`.
    Int,
    /// `!!float`.
    Float,
    /// `!!null`.
    Null,
    /// `!!binary`.
    Binary,
}

/// The value of a scalar.
///
/// # Errors
/// With a sentence when the text is not what its tag says, or a number that JSON has no form for.
pub(super) fn resolve(tag: ScalarTag, text: &str) -> Result<Value, String> {
    let value = match tag {
        ScalarTag::Text => return Ok(Value::String(text.to_owned())),
        ScalarTag::Binary => return binary(text),
        _ => untagged(text)?,
    };
    let fits = match tag {
        ScalarTag::Bool => value.is_boolean(),
        ScalarTag::Int => value.is_i64() || value.is_u64(),
        ScalarTag::Float => value.is_number(),
        ScalarTag::Null => value.is_null(),
        _ => true,
    };
    if fits { Ok(value) } else { Err(format!("{text:?} is not what its tag says")) }
}

fn binary(text: &str) -> Result<Value, String> {
    let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let bytes = BASE64.decode(compact.as_bytes()).map_err(|_| "the value of a !!binary is not base64".to_owned())?;
    String::from_utf8(bytes)
        .map(Value::String)
        .map_err(|_| "a !!binary that is not UTF-8 has no form in JSON".to_owned())
}

fn untagged(text: &str) -> Result<Value, String> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Ok(Value::Bool(true));
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Ok(Value::Bool(false));
        }
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf"
        | "-.INF" => return Err(format!("{text} has no form in JSON; quote it if a text is meant")),
        _ => {}
    }
    let number = match text.as_bytes()[0] {
        b'.' => separated_digits(text).and_then(|plain| float(&plain)),
        b'0'..=b'9' | b'+' | b'-' => {
            let plain = text.replace('_', "");
            integer(&plain).or_else(|| float(&plain))
        }
        _ => None,
    };
    Ok(number.map_or_else(|| Value::String(text.to_owned()), Value::Number))
}

/// Go's integers: `0x`, `0o`, `0b`, and a leading zero for octal, the form of file modes.
fn integer(plain: &str) -> Option<Number> {
    let (negative, unsigned) = match plain.as_bytes().first()? {
        b'-' => (true, &plain[1..]),
        b'+' => (false, &plain[1..]),
        _ => (false, plain),
    };
    // go-yaml hands what follows "0b" on as it is, sign and all.
    if let Some(signed) = plain.strip_prefix("0b-") {
        return digits(signed, 2).and_then(|magnitude| signed_number(true, magnitude));
    }
    let (radix, rest) = match unsigned.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &unsigned[2..]),
        [b'0', b'o' | b'O', ..] => (8, &unsigned[2..]),
        [b'0', b'b' | b'B', ..] => (2, &unsigned[2..]),
        [b'0', _, ..] => (8, &unsigned[1..]),
        _ => (10, unsigned),
    };
    let magnitude = digits(rest, radix)?;
    // Go reads a sign only where the number fits in 64 signed bits.
    if plain.starts_with('+') && i64::try_from(magnitude).is_err() {
        return None;
    }
    signed_number(negative, magnitude)
}

fn digits(text: &str, radix: u32) -> Option<u64> {
    // from_str_radix takes a sign; none may stand here.
    if !text.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(text, radix).ok()
}

fn signed_number(negative: bool, magnitude: u64) -> Option<Number> {
    if negative { 0_i64.checked_sub_unsigned(magnitude).map(Number::from) } else { Some(Number::from(magnitude)) }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`; what is too large for a float stays text.
fn float(plain: &str) -> Option<Number> {
    let unsigned = plain.strip_prefix(['-', '+']).unwrap_or(plain);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let good_mantissa = match mantissa.split_once('.') {
        Some((whole, fraction)) => {
            all_digits(whole) && all_digits(fraction) && !(whole.is_empty() && fraction.is_empty())
        }
        None => !mantissa.is_empty() && all_digits(mantissa),
    };
    if !good_mantissa || exponent.is_some_and(|digits| digits.is_empty() || !all_digits(digits)) {
        return None;
    }
    plain.parse::<f64>().ok().and_then(from_float)
}

/// `.5_0`: an underscore only between digits.
fn separated_digits(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let good =
        (0..bytes.len()).filter(|at| bytes[*at] == b'_').all(|at| digit(at.checked_sub(1)) && digit(Some(at + 1)));
    good.then(|| text.replace('_', ""))
}

/// A float as JSON writes it: a whole number has no fraction, so that `400.0` does not become something else than 400
/// for whoever reads integers. None for what JSON has no form for.
pub(crate) fn from_float(value: f64) -> Option<Number> {
    /// 2^63: below it, a whole float is exactly a 64-bit integer.
    const WHOLE_MAX: f64 = 9_223_372_036_854_775_808.0;
    if value.fract() == 0.0 && value.abs() < WHOLE_MAX {
        #[expect(clippy::cast_possible_truncation, reason = "a whole number within the bounds of i64")]
        return Some(Number::from(value as i64));
    }
    Number::from_f64(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plain scalars and what sigs.k8s.io/yaml 1.6.0 (YAMLToJSON) prints for each.
    const KUBECTL: &[(&str, &str)] = &[
        ("0400", "256"),
        ("0644", "420"),
        ("0o400", "256"),
        ("0O17", "15"),
        ("0o9", r#""0o9""#),
        ("007", "7"),
        ("08", "8"),
        ("0888", "888"),
        ("09.5", "9.5"),
        ("00", "0"),
        ("-0400", "-256"),
        ("+0400", "256"),
        ("-0o17", "-15"),
        ("256", "256"),
        ("1_000", "1000"),
        ("1__0", "10"),
        ("1_", "1"),
        ("_1", r#""_1""#),
        ("0_7", "7"),
        ("0_8", "8"),
        ("1__000.5", "1000.5"),
        ("1_e3", "1000"),
        ("1e_3", "1000"),
        ("0x1F", "31"),
        ("0X1f", "31"),
        ("-0x1F", "-31"),
        ("0x_1", "1"),
        ("0b101", "5"),
        ("0B11", "3"),
        ("-0b11", "-3"),
        ("+0b11", "3"),
        ("0b-1", "-1"),
        ("0b2", r#""0b2""#),
        ("0x", r#""0x""#),
        ("0x1p4", r#""0x1p4""#),
        ("1e3", "1000"),
        ("1E3", "1000"),
        ("1e+3", "1000"),
        ("1e0", "1"),
        ("1.0e+2", "100"),
        ("-1.5e2", "-150"),
        ("1.", "1"),
        (".5", "0.5"),
        ("-.5", "-0.5"),
        ("+.5", "0.5"),
        ("._5", r#""._5""#),
        (".5_0", "0.5"),
        (".5_", r#"".5_""#),
        (".5e1_0", "5000000000"),
        ("1_0.5", "10.5"),
        ("400.0", "400"),
        ("1.10", "1.1"),
        ("1e400", r#""1e400""#),
        (".5e400", r#"".5e400""#),
        ("-1e400", r#""-1e400""#),
        ("1e20", "100000000000000000000"),
        ("1e21", "1e+21"),
        ("9223372036854775807", "9223372036854775807"),
        ("9223372036854775808", "9223372036854775808"),
        ("18446744073709551615", "18446744073709551615"),
        ("18446744073709551616", "18446744073709552000"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("-9223372036854775809", "-9223372036854776000"),
        ("1e-7", "1e-7"),
        ("-0", "0"),
        ("y", "true"),
        ("Yes", "true"),
        ("yES", r#""yES""#),
        ("on", "true"),
        ("n", "false"),
        ("NO", "false"),
        ("Off", "false"),
        ("True", "true"),
        ("tRUE", r#""tRUE""#),
        ("FALSE", "false"),
        ("", "null"),
        ("~", "null"),
        ("Null", "null"),
        ("nULL", r#""nULL""#),
        ("2001-12-14", r#""2001-12-14""#),
        ("2001-12-14T21:59:43Z", r#""2001-12-14T21:59:43Z""#),
        ("2001-1-2", r#""2001-1-2""#),
        ("190:20:30", r#""190:20:30""#),
        ("1:30", r#""1:30""#),
        ("1.2.3", r#""1.2.3""#),
        ("--", r#""--""#),
        ("+", r#""+""#),
        (".", r#"".""#),
        ("..", r#""..""#),
        ("=", r#""=""#),
        ("infinity", r#""infinity""#),
        ("nan", r#""nan""#),
        ("1,000", r#""1,000""#),
        ("nginx:1.29", r#""nginx:1.29""#),
    ];

    #[test]
    fn plain_scalars_mean_what_kubectl_makes_of_them() {
        for (text, expected) in KUBECTL {
            let value = resolve(ScalarTag::Untagged, text).unwrap();
            let expected: Value = serde_json::from_str(expected).unwrap();
            match (value.as_f64(), expected.as_f64()) {
                (Some(one), Some(other)) if !expected.is_i64() && !expected.is_u64() => {
                    assert!((one - other).abs() <= f64::EPSILON * other.abs(), "{text}: {value}, not {expected}");
                }
                _ => assert_eq!(value, expected, "{text}"),
            }
        }
    }

    #[test]
    fn quoted_and_tagged_scalars() {
        let json = |tag, text| resolve(tag, text).map(|value| value.to_string());
        assert_eq!(json(ScalarTag::Text, "007").as_deref(), Ok(r#""007""#));
        assert_eq!(json(ScalarTag::Text, "yes").as_deref(), Ok(r#""yes""#));
        assert_eq!(json(ScalarTag::Int, "0400").as_deref(), Ok("256"));
        assert_eq!(json(ScalarTag::Float, "0x10").as_deref(), Ok("16"));
        assert_eq!(json(ScalarTag::Bool, "yes").as_deref(), Ok("true"));
        assert_eq!(json(ScalarTag::Null, "").as_deref(), Ok("null"));
        assert_eq!(json(ScalarTag::Binary, "aGVs\nbG8=").as_deref(), Ok(r#""hello""#));
        for (tag, text) in [
            (ScalarTag::Int, "abc"),
            (ScalarTag::Int, "1.5"),
            (ScalarTag::Float, "abc"),
            (ScalarTag::Bool, "1"),
            (ScalarTag::Null, "x"),
            (ScalarTag::Binary, "##"),
            (ScalarTag::Binary, "/w=="),
        ] {
            assert!(resolve(tag, text).is_err(), "{tag:?} {text}");
        }
    }

    #[test]
    fn what_json_has_no_form_for_is_refused() {
        for text in [".nan", ".inf", "-.Inf", "+.INF"] {
            assert!(resolve(ScalarTag::Untagged, text).is_err(), "{text}");
        }
    }
}
