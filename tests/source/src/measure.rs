//! What the source looks like to a reader, in numbers: sizes of files and functions, tests beside the code, and how much
//! harness a scenario needs. `cargo dev measure` prints it, `docs/development.md` shows it.
//!
//! A line of code is a line that is neither blank nor a comment.

use std::fmt::Write as _;

use syn::{spanned::Spanned as _, visit::Visit};

use crate::source::{self, SourceFile};
use crate::workspace::Package;

/// Sorted numbers.
#[derive(Debug, Default)]
struct Sizes(Vec<usize>);

impl Sizes {
    /// The middle one, the one that nine tenths do not exceed, and the largest.
    fn summary(&mut self) -> String {
        self.0.sort_unstable();
        let at = |per_cent: usize| self.0.get((self.0.len() * per_cent / 100).min(self.0.len().saturating_sub(1)));
        let number = |per_cent| at(per_cent).copied().unwrap_or_default();
        format!("{} / {} / {}", number(50), number(90), number(100))
    }
}

/// The counts of one file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Lines of code that the product compiles.
    code: usize,
    /// Lines of code that only tests compile.
    test_code: usize,
    /// Lines of documentation comments.
    doc: usize,
    /// Lines of other comments.
    comment: usize,
    /// Lines of each function outside tests, from its signature to its last brace.
    functions: Vec<usize>,
    /// Test functions.
    tests: usize,
    /// Calls of `unwrap` outside tests.
    unwraps: usize,
}

/// The counts of a file; `all_tests` for a file that only tests compile.
fn count(file: &SourceFile, all_tests: bool) -> Counts {
    let mut walk = Walk::default();
    walk.visit_file(&file.syntax);
    let mut counts =
        Counts { functions: walk.functions, tests: walk.tests, unwraps: walk.unwraps, ..Counts::default() };
    for (index, line) in file.text.lines().enumerate() {
        let (line, number) = (line.trim(), index + 1);
        let is_test = all_tests || walk.test_spans.iter().any(|(from, to)| (*from..=*to).contains(&number));
        match line {
            "" => {}
            _ if line.starts_with("///") || line.starts_with("//!") => counts.doc += 1,
            _ if line.starts_with("//") => counts.comment += 1,
            _ if is_test => counts.test_code += 1,
            _ => counts.code += 1,
        }
    }
    if all_tests {
        counts.functions.clear();
        counts.unwraps = 0;
    }
    counts
}

#[derive(Default)]
struct Walk {
    functions: Vec<usize>,
    test_spans: Vec<(usize, usize)>,
    tests: usize,
    unwraps: usize,
    test_depth: usize,
}

impl Walk {
    fn function(&mut self, attributes: &[syn::Attribute], signature: &syn::Signature, body: &syn::Block) {
        let is_test = attributes.iter().any(|it| it.path().segments.last().is_some_and(|last| last.ident == "test"));
        self.tests += usize::from(is_test);
        if self.test_depth == 0 && !is_test {
            self.functions.push(body.span().end().line + 1 - signature.span().start().line);
        }
    }

    fn testing(&mut self, span: proc_macro2::Span, attributes: &[syn::Attribute], visit: impl FnOnce(&mut Self)) {
        let is_test = source::is_for_tests(attributes);
        if is_test && self.test_depth == 0 {
            self.test_spans.push((span.start().line, span.end().line));
        }
        self.test_depth += usize::from(is_test);
        visit(self);
        self.test_depth -= usize::from(is_test);
    }
}

impl<'ast> Visit<'ast> for Walk {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.testing(module.span(), &module.attrs, |this| syn::visit::visit_item_mod(this, module));
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.attrs, &item.sig, &item.block);
        self.testing(item.span(), &item.attrs, |this| syn::visit::visit_item_fn(this, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.attrs, &item.sig, &item.block);
        self.testing(item.span(), &item.attrs, |this| syn::visit::visit_impl_item_fn(this, item));
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.unwraps += usize::from(self.test_depth == 0 && call.method == "unwrap");
        syn::visit::visit_expr_method_call(self, call);
    }
}

/// The sums over some files.
#[derive(Default)]
struct Sums {
    files: Sizes,
    functions: Sizes,
    code: usize,
    test_code: usize,
    tests: usize,
    tested_files: usize,
    doc: usize,
    comment: usize,
    unwraps: usize,
}

impl Sums {
    fn add(&mut self, counts: Counts) {
        if counts.code > 0 {
            self.files.0.push(counts.code);
            self.tested_files += usize::from(counts.tests > 0);
        }
        self.functions.0.extend(counts.functions);
        self.code += counts.code;
        self.test_code += counts.test_code;
        self.tests += counts.tests;
        self.doc += counts.doc;
        self.comment += counts.comment;
        self.unwraps += counts.unwraps;
    }

    fn of(package: &Package) -> anyhow::Result<Self> {
        let mut sums = Self::default();
        let files = source::files_below(&package.folder().join("src"))?;
        let test_paths = source::test_paths(&files);
        for file in &files {
            sums.add(count(file, test_paths.iter().any(|it| file.path.starts_with(it))));
        }
        for file in source::files_below(&package.folder().join("tests"))? {
            if !package.leaves_to_another_crate(&file.path) {
                sums.add(count(&file, true));
            }
        }
        Ok(sums)
    }

    fn merge(&mut self, other: Self) {
        self.files.0.extend(other.files.0);
        self.functions.0.extend(other.functions.0);
        self.code += other.code;
        self.test_code += other.test_code;
        self.tests += other.tests;
        self.tested_files += other.tested_files;
        self.doc += other.doc;
        self.comment += other.comment;
        self.unwraps += other.unwraps;
    }

    fn row(&mut self, name: &str) -> String {
        let lines = (self.code + self.test_code + self.doc + self.comment).max(1);
        format!(
            "| {name} | {} | {} | {} | {} | {} of {} | {} | {:.1} / {:.1} | {} |\n",
            self.code,
            self.files.summary(),
            self.functions.summary(),
            self.tests,
            self.tested_files,
            self.files.0.len(),
            self.test_code,
            per_cent(self.doc, lines),
            per_cent(self.comment, lines),
            self.unwraps,
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of lines, far below 2^52")]
fn per_cent(part: usize, whole: usize) -> f64 {
    part as f64 * 100.0 / whole as f64
}

/// The table, in Markdown.
///
/// # Errors
/// When a source file cannot be read or parsed.
pub fn table(packages: &[Package]) -> anyhow::Result<String> {
    let mut text = String::from(
        "| Crate | Code | File p50 / p90 / max | Function p50 / p90 / max | Tests | Files with tests | Test code | Doc / other comments, % | unwrap |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let (mut product, mut harness) = (Sums::default(), 0);
    let mut scenarios = 0;
    for package in packages {
        let mut sums = Sums::of(package)?;
        text.push_str(&sums.row(&format!("`{}`", package.name)));
        match package.name.as_str() {
            "kubenova-scenarios" => scenarios += sums.code + sums.test_code,
            "kubenova-env" | "kubenova-dev" => harness += sums.code,
            _ if package.is_for_tests() => {}
            _ => product.merge(sums),
        }
    }
    text.push_str(&product.row("**product**"));
    write!(
        text,
        "\nHarness: {harness} lines of code in `tests/env` and `tests/dev` for {scenarios} lines in `tests/scenarios`, {:.1} \
         a line.\n",
        per_cent(harness, scenarios.max(1)) / 100.0
    )?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_tests_and_comments_are_told_apart() {
        let text = "//! Doc.\n\n// Why.\nfn a() {\n    b().unwrap();\n}\n\n#[cfg(test)]\nmod tests {\n    #[test]\n    fn c() { d().unwrap() }\n}\n";
        let file = SourceFile { path: "a.rs".into(), text: text.into(), syntax: syn::parse_file(text).unwrap() };
        let expected = Counts { code: 3, test_code: 5, doc: 1, comment: 1, functions: vec![3], tests: 1, unwraps: 1 };
        assert_eq!(count(&file, false), expected);
    }

    #[test]
    fn the_summary_is_the_middle_the_ninth_tenth_and_the_largest() {
        assert_eq!(Sizes((1..=100).rev().collect()).summary(), "51 / 91 / 100");
        assert_eq!(Sizes::default().summary(), "0 / 0 / 0");
    }
}
